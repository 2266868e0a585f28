"""`return_progress`: how far a prompt is, in the chunks in which llama-server tells it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx2
import openai
import pytest

from support.served import served
from support.stream_rules import data_of

WORDS = " ".join(f"number {number}" for number in range(150))
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def slow() -> Iterator[httpx2.Client]:
    """A server that computes 64 tokens of a prompt in a step."""
    with (
        served(options={"max_num_batched_tokens": 64}) as running,
        httpx2.Client(base_url=running.url, timeout=60) as client,
    ):
        yield client


def chunks_of(client: httpx2.Client, path: str, **fields: object) -> list[dict[str, object]]:
    answer = client.post(path, json={"temperature": 0, "max_tokens": 2, "stream": True, "return_progress": True, **fields})
    assert answer.status_code == 200, answer.text
    return [json.loads(each) for each in data_of(answer.content)[:-1]]


def progress_in(chunks: list[dict[str, object]]) -> list[dict[str, int]]:
    found = [chunk["prompt_progress"] for chunk in chunks if "prompt_progress" in chunk]
    assert all(isinstance(each, dict) for each in found)
    return found  # type: ignore[return-value]


def test_chat_tells_each_step_and_what_the_cache_held(slow: httpx2.Client) -> None:
    messages = [{"role": "user", "content": f"chat {WORDS}"}]
    first = progress_in(chunks_of(slow, CHAT, messages=messages))
    assert len(first) > 3
    assert {each["cache"] for each in first} == {0}
    processed = [each["processed"] for each in first]
    assert processed == sorted(set(processed))
    assert processed[-1] == first[-1]["total"]
    assert [each["time_ms"] for each in first] == sorted(each["time_ms"] for each in first)
    again = progress_in(chunks_of(slow, CHAT, messages=messages))
    assert again[0]["cache"] == again[0]["total"] - 1, "the last token is computed for its logits"
    assert again[-1]["processed"] == again[-1]["total"]


def test_completion_tells_it_of_each_prompt(slow: httpx2.Client) -> None:
    chunks = chunks_of(slow, COMPLETION, prompt=[f"one {WORDS}", f"two {WORDS}"], n=2)
    told = [chunk for chunk in chunks if "prompt_progress" in chunk]
    indices = [choice["index"] for chunk in told for choice in chunk["choices"]]  # type: ignore[attr-defined]
    assert set(indices) == {0, 2}, "the first choice of each prompt"
    assert all(choice["text"] == "" for chunk in told for choice in chunk["choices"])  # type: ignore[attr-defined]


@pytest.mark.parametrize("wanted", [False, None])
def test_nothing_is_told_where_it_is_not_wanted(slow: httpx2.Client, wanted: bool | None) -> None:
    assert not progress_in(chunks_of(slow, COMPLETION, prompt=WORDS, return_progress=wanted))


def test_answer_is_the_same_and_the_official_client_reads_it(slow: httpx2.Client) -> None:
    messages = [{"role": "user", "content": f"client {WORDS}"}]
    with openai.OpenAI(base_url=f"{slow.base_url}/v1", api_key="none", max_retries=0, _strict_response_validation=True) as client:
        with client.chat.completions.stream(
            model="any", messages=messages, temperature=0, stop=["e", "a", " "], extra_body={"return_progress": True}
        ) as stream:
            told = stream.until_done().get_final_completion()
        plain = client.chat.completions.create(model="any", messages=messages, temperature=0, stop=["e", "a", " "])
    assert told.choices[0].message.content == plain.choices[0].message.content
    assert told.choices[0].message.role == "assistant"
