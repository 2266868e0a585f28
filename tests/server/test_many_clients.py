"""Many clients at once: each gets the bits that it would get alone."""

from __future__ import annotations

import asyncio

import openai

from quire.engine.llm import LLM
from quire.sampling import SamplingParams
from support.served import Served

TOPICS = ("the sea", "a cat", "Paris", "numbers", "snow", "a river", "music", "bread")


async def _streamed(client: openai.AsyncOpenAI, messages: list[dict[str, str]], wish: dict[str, float]) -> str:
    stream = await client.chat.completions.create(model="any", messages=messages, stream=True, **wish)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


async def _whole(client: openai.AsyncOpenAI, messages: list[dict[str, str]], wish: dict[str, float]) -> str:
    answer = await client.chat.completions.create(model="any", messages=messages, **wish)
    return answer.choices[0].message.content or ""


def test_sixteen_at_once_get_the_bits_of_each_alone(server: Served, llm: LLM) -> None:
    chats = [[{"role": "user", "content": f"Tell me about {topic}."}] for topic in TOPICS]
    wishes = [{"temperature": 0.7 * (idx % 2), "seed": idx, "max_tokens": 40} for idx in range(len(chats))]

    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
        ) as client:
            calls = [ask(client, *each) for ask in (_streamed, _whole) for each in zip(chats, wishes, strict=True)]
            return await asyncio.gather(*calls)

    expected = [llm.chat(chat, SamplingParams(**wish))[0].outputs[0].text for chat, wish in zip(chats, wishes, strict=True)]
    assert asyncio.run(ask()) == expected * 2
