"""`/v1/responses` with the official client, compared with `LLM.chat`."""

from __future__ import annotations

import asyncio
import json

import httpx2
import openai
import pytest
from openai.types.responses import Response

from quire.engine.llm import LLM
from quire.sampling import SamplingParams
from support.responses_rules import response_events
from support.served import Served

QUESTION = "What is the capital of France?"
INSTRUCTIONS = "You are brief."
STORY = "Tell me about the sea."
STORY_CHAT = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": STORY}]


def post(http: httpx2.Client, **fields: object) -> httpx2.Response:
    return http.post("/v1/responses", json={"input": QUESTION, "temperature": 0, "max_output_tokens": 8, **fields})


def text_of(response: Response) -> str:
    (item,) = response.output
    assert item.type == "message"
    (part,) = item.content
    assert part.type == "output_text"
    return part.text


def test_answer_is_that_of_the_library(client: openai.OpenAI, llm: LLM) -> None:
    answer = client.responses.create(model="any", input=QUESTION, temperature=0, max_output_tokens=30)
    (expected,) = llm.chat([{"role": "user", "content": QUESTION}], SamplingParams(temperature=0, max_tokens=30))
    assert answer.output_text == text_of(answer) == expected.outputs[0].text
    assert (answer.status, answer.model, answer.error, answer.incomplete_details) == ("completed", "bundled", None, None)
    assert answer.usage is not None
    assert answer.usage.input_tokens == len(expected.prompt_token_ids)
    assert answer.usage.output_tokens == len(expected.outputs[0].token_ids)
    assert answer.usage.output_tokens_details.reasoning_tokens == 0


@pytest.mark.parametrize("temperature", [0, 0.9])
def test_stream_joined_is_the_whole_answer_and_the_librarys(client: openai.OpenAI, llm: LLM, temperature: float) -> None:
    wish = {"temperature": temperature, "max_output_tokens": 60, "extra_body": {"seed": 7}}
    whole = client.responses.create(model="any", input=STORY, instructions=INSTRUCTIONS, **wish)
    joined = ""
    for event in client.responses.create(model="any", input=STORY, instructions=INSTRUCTIONS, stream=True, **wish):
        if event.type == "response.output_text.delta":
            joined += event.delta
    (expected,) = llm.chat(STORY_CHAT, SamplingParams(temperature=temperature, max_tokens=60, seed=7))
    assert joined == whole.output_text == expected.outputs[0].text


def test_last_event_of_a_stream_is_the_whole_answer_but_for_ids_and_times(http: httpx2.Client) -> None:
    whole = post(http, metadata={"a": "b"}).json()
    *_, last = response_events(post(http, metadata={"a": "b"}, stream=True).content)
    streamed = last["response"]
    for response in (whole, streamed):
        response["output"][0].pop("id")
        for name in ("id", "created_at", "completed_at", "usage"):
            response.pop(name, None)
    assert streamed == whole


def test_stream_helper_of_the_client_reads_the_answer(client: openai.OpenAI) -> None:
    wish = {"model": "any", "input": QUESTION, "temperature": 0}
    with client.responses.stream(**wish) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert final.output_text == client.responses.create(**wish).output_text
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


def test_async_client_reads_the_same(server: Served, client: openai.OpenAI) -> None:
    wish = {"model": "any", "input": QUESTION, "temperature": 0}

    async def ask() -> tuple[str, str, str]:
        waiting = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", _strict_response_validation=True)
        async with waiting:
            whole = await waiting.responses.create(**wish)
            async with waiting.responses.stream(**wish) as stream:
                final = await stream.get_final_response()
            joined = ""
            async for event in await waiting.responses.create(stream=True, **wish):
                joined += event.delta if event.type == "response.output_text.delta" else ""
        return whole.output_text, final.output_text, joined

    expected = client.responses.create(**wish).output_text
    assert asyncio.run(ask()) == (expected, expected, expected)


def test_answer_that_is_cut_is_incomplete(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="any", input=STORY, temperature=0, max_output_tokens=3)
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.max_output_tokens == 3
    assert answer.output[0].status == "incomplete"
    *_, last = client.responses.create(model="any", input=STORY, temperature=0, max_output_tokens=3, stream=True)
    assert last.type == "response.incomplete"
    assert last.response.output_text == answer.output_text


def test_log_probabilities_are_those_of_the_library(client: openai.OpenAI, llm: LLM) -> None:
    wish = {"temperature": 0, "max_output_tokens": 6, "include": ["message.output_text.logprobs"], "top_logprobs": 3}
    answer = client.responses.create(model="any", input=QUESTION, **wish)
    (expected,) = llm.chat([{"role": "user", "content": QUESTION}], SamplingParams(temperature=0, max_tokens=6, logprobs=3))
    entries, output = answer.output[0].content[0].logprobs, expected.outputs[0]
    assert [entry.logprob for entry in entries] == [
        candidates[token_id].logprob for token_id, candidates in zip(output.token_ids, output.logprobs or (), strict=True)
    ]
    assert b"".join(bytes(entry.bytes) for entry in entries).decode() == output.text
    assert all(len(entry.top_logprobs) == 3 for entry in entries)
    streamed = [
        entry
        for event in client.responses.create(model="any", input=QUESTION, stream=True, **wish)
        if event.type == "response.output_text.delta"
        for entry in event.logprobs
    ]
    assert [(entry.token, entry.logprob) for entry in streamed] == [(entry.token, entry.logprob) for entry in entries]


def test_vllms_sampling_parameters_work_here_too(http: httpx2.Client, llm: LLM) -> None:
    wish = {"temperature": 0.8, "top_k": 5, "min_p": 0.01, "repetition_penalty": 1.1, "seed": 3, "stop": ["."]}
    answer = post(http, input=STORY, max_output_tokens=40, **wish).json()
    (expected,) = llm.chat([{"role": "user", "content": STORY}], SamplingParams(max_tokens=40, **wish))
    assert answer["output"][0]["content"][0]["text"] == expected.outputs[0].text


def test_seed_that_the_server_drew_gives_the_answer_again(http: httpx2.Client) -> None:
    first = post(http, temperature=1, input=STORY)
    again = post(http, temperature=1, input=STORY, seed=int(first.headers["x-quire-seed"]))
    assert [part["text"] for part in again.json()["output"][0]["content"]] == [
        part["text"] for part in first.json()["output"][0]["content"]
    ]


def test_answer_repeats_what_was_asked_for(http: httpx2.Client) -> None:
    asked = {
        "instructions": INSTRUCTIONS,
        "metadata": {"purpose": "test"},
        "parallel_tool_calls": False,
        "prompt_cache_key": "chat-1",
        "safety_identifier": "someone",
        "store": False,
        "temperature": 0.5,
        "tool_choice": "none",
        "top_p": 0.9,
        "user": "me",
    }
    answer = post(http, **asked, reasoning={"effort": "low"}, text={"verbosity": "low"}).json()
    assert {name: answer[name] for name in asked} == asked
    assert (answer["reasoning"]["effort"], answer["text"]) == ("low", {"format": {"type": "text"}, "verbosity": "low"})
    assert (answer["object"], answer["background"], answer["truncation"]) == ("response", False, "disabled")


def test_answer_has_every_field_that_the_specifications_require(http: httpx2.Client) -> None:
    """OpenAI's, and that of Open Responses, which asks for more."""
    required = (
        "id object created_at completed_at status incomplete_details model previous_response_id instructions output error tools "
        "tool_choice truncation parallel_tool_calls text top_p presence_penalty frequency_penalty top_logprobs temperature "
        "reasoning usage max_output_tokens max_tool_calls store background service_tier metadata safety_identifier "
        "prompt_cache_key"
    )
    created, *_, last = response_events(post(http, stream=True, frequency_penalty=0.5).content)
    for response in (created["response"], last["response"]):
        assert [name for name in required.split() if name not in response] == []
        assert (response["frequency_penalty"], response["presence_penalty"]) == (0.5, 0)
    assert [name for name in ("id", "type", "status", "role", "content") if name not in last["response"]["output"][0]] == []


def test_length_beyond_the_context_is_cut_and_told(http: httpx2.Client, server: Served) -> None:
    answer = post(http, max_output_tokens=32_000, stop=["."])
    kept = server.service.max_context - answer.json()["usage"]["input_tokens"]
    assert answer.headers["x-quire-max-tokens"] == f"{kept}; requested=32000"
    assert answer.json()["max_output_tokens"] == kept
    assert "x-quire-max-tokens" not in post(http).headers


def test_prompt_beyond_the_context_is_refused_with_both_numbers(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"prompt is too long: \d{4} tokens > 2047 maximum") as caught:
        client.responses.create(model="any", input="word " * 3000)
    assert caught.value.code == "context_length_exceeded"
    assert client.responses.input_tokens.count(model="any", input="word " * 3000).input_tokens > 3000


def test_counted_input_is_that_of_an_answer(client: openai.OpenAI) -> None:
    asked = {"model": "any", "input": STORY, "instructions": INSTRUCTIONS}
    counted = client.responses.input_tokens.count(**asked)
    answer = client.responses.create(**asked, max_output_tokens=1)
    assert answer.usage is not None
    assert counted.input_tokens == answer.usage.input_tokens


@pytest.mark.parametrize("is_streamed", [False, True])
def test_prewarmed_prompt_is_in_the_cache(http: httpx2.Client, is_streamed: bool) -> None:
    long = f"{is_streamed}, and then there was a number: " + " ".join(map(str, range(80)))
    own: dict[str, object] = {"input": long, "cache_salt": f"prewarmed, {is_streamed}"}
    answer = post(http, **own, prompt_cache_options={"prewarm": True}, max_output_tokens=None, stream=is_streamed)
    warmed = response_events(answer.content)[-1]["response"] if is_streamed else answer.json()
    assert (warmed["status"], warmed["output"], warmed["usage"]["output_tokens"]) == ("completed", [], 0)
    again = post(http, **own).json()
    num_prompt = warmed["usage"]["input_tokens"]
    assert warmed["usage"]["input_tokens_details"] == {"cached_tokens": 0, "cache_write_tokens": num_prompt // 32 * 32}
    assert again["usage"]["input_tokens_details"]["cached_tokens"] == num_prompt - 1, "the last token is computed for its logits"


def test_events_are_named_twice_and_end_without_done(http: httpx2.Client) -> None:
    lines = post(http, stream=True).text.split("\n")
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert names == [event["type"] for event in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert "[DONE]" not in lines
