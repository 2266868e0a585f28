"""Why a cache was missed, as both vendors' clients read it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anthropic
import httpx2
import openai
import pytest

from quire.server.limits import Limits
from quire.server.serving import Access
from support.edited_chats import edit
from support.served import served

_LONG = "The quick brown fox jumps over the lazy dog, and then it goes home to read about foxes that jump over dogs. " * 4
_SYSTEM = "You are brief, and you know everything about foxes and dogs, about jumping, and about all the other animals. " * 2


@pytest.mark.parametrize(("kv_memory", "seen"), [("256MiB", "openai hit"), ("2MiB", "openai unavailable")])
def test_diagnoses_are_those_worked_out_by_hand(tmp_path: Path, kv_memory: str, seen: str) -> None:
    verdicts = edit(tmp_path, 60, kv_memory, seed=2)
    assert sum(verdicts.values()) == 60
    assert verdicts[seen]
    assert len({verdict.partition(" ")[2] for verdict in verdicts}) >= 5


# -- Responses -------------------------------------------------------------------------


def test_responses_tell_what_the_client_reads(client: openai.OpenAI) -> None:
    first = client.responses.create(model="any", instructions=_SYSTEM, input=_LONG, max_output_tokens=4)
    options = {"comparison_response_id": first.id}
    again = client.responses.create(
        model="any", instructions=_SYSTEM, input=_LONG + " Why?", max_output_tokens=4, prompt_cache_options=options
    )
    assert again.prompt_cache_diagnostics is not None
    assert again.prompt_cache_diagnostics.type == "cache_hit"
    other = client.responses.create(
        model="any", instructions="No. " + _SYSTEM, input=_LONG, max_output_tokens=4, prompt_cache_options=options
    )
    told = other.prompt_cache_diagnostics
    assert told is not None
    assert told.type == "cache_miss"
    assert told.reason == "input_changed"
    assert other.usage is not None
    cached = other.usage.input_tokens_details.cached_tokens
    assert told.comparison_reusable_tokens == cached + told.cache_missed_tokens
    assert first.prompt_cache_diagnostics is None


def test_a_stored_response_is_continued_and_compared(client: openai.OpenAI) -> None:
    first = client.responses.create(model="any", input=_LONG, max_output_tokens=4)
    second = client.responses.create(
        model="any", previous_response_id=first.id, input="And?", max_output_tokens=4,
        prompt_cache_options={"comparison_response_id": first.id},
    )  # fmt: skip
    assert second.prompt_cache_diagnostics is not None
    assert second.prompt_cache_diagnostics.type == "cache_hit"
    kept = client.responses.retrieve(second.id)
    assert kept.prompt_cache_diagnostics == second.prompt_cache_diagnostics


def test_a_streamed_response_tells_at_its_end(client: openai.OpenAI) -> None:
    options = {"comparison_response_id": "resp_0"}
    events = list(
        client.responses.create(model="any", input="Hi", stream=True, prompt_cache_options=options, max_output_tokens=4)
    )
    assert events[0].type == "response.created"
    assert events[0].response.prompt_cache_diagnostics is None
    assert events[-1].type in ("response.completed", "response.incomplete")
    told = events[-1].response.prompt_cache_diagnostics
    assert told is not None
    assert told.type == "comparison_response_not_found"


def test_prompt_that_was_computed_ahead_is_a_hit(client: openai.OpenAI) -> None:
    text = "Ahead of time. " + _LONG
    ahead = client.responses.create(model="any", input=text, prompt_cache_options={"prewarm": True})
    then = client.responses.create(
        model="any", input=text, max_output_tokens=4, prompt_cache_options={"comparison_response_id": ahead.id}
    )
    assert then.prompt_cache_diagnostics is not None
    assert then.prompt_cache_diagnostics.type == "cache_hit"


def test_what_reaches_no_token_is_no_reason(client: openai.OpenAI) -> None:
    text = "Decorated. " + _LONG
    first = client.responses.create(model="one", input=text, max_output_tokens=4, prompt_cache_key="a", service_tier="auto")
    second = client.responses.create(
        model="two", input=text, max_output_tokens=4, prompt_cache_key="b", service_tier="flex", text={"verbosity": "low"},
        prompt_cache_options={"comparison_response_id": first.id},
    )  # fmt: skip
    assert second.prompt_cache_diagnostics is not None
    assert second.prompt_cache_diagnostics.type == "cache_hit"


def test_another_salt_and_no_cache_are_unavailable(client: openai.OpenAI) -> None:
    text = "Salted. " + _LONG
    first = client.responses.create(model="any", input=text, max_output_tokens=4)
    options = {"comparison_response_id": first.id}
    salted = client.responses.create(
        model="any", input=text, max_output_tokens=4, prompt_cache_options=options, extra_body={"cache_salt": "mine"}
    )
    assert salted.prompt_cache_diagnostics is not None
    assert salted.prompt_cache_diagnostics.type == "unavailable"
    with served(options={"prefix_cache": "off"}) as running:
        off = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", _strict_response_validation=True)
        first = off.responses.create(model="any", input=text, max_output_tokens=4)
        again = off.responses.create(
            model="any", input=text, max_output_tokens=4, prompt_cache_options={"comparison_response_id": first.id}
        )
        off.close()
    assert again.prompt_cache_diagnostics is not None
    assert again.prompt_cache_diagnostics.type == "unavailable"


# -- Messages --------------------------------------------------------------------------


def test_messages_tell_what_the_client_reads(anthropic_client: anthropic.Anthropic) -> None:
    def ask(system: str, *said: str, previous: str | None = None) -> anthropic.types.Message:
        roles = ("user", "assistant")
        messages = [{"role": roles[idx % 2], "content": text} for idx, text in enumerate(said)]
        return anthropic_client.messages.create(
            model="any", system=system, messages=messages, max_tokens=4, diagnostics={"previous_message_id": previous}
        )

    first = ask("A. " + _SYSTEM, _LONG)
    assert first.diagnostics is None
    assert ask("A. " + _SYSTEM, _LONG, "Yes.", "And?", previous=first.id).diagnostics is None
    changed = ask("B. " + _SYSTEM, _LONG, previous=first.id)
    assert changed.diagnostics is not None
    reason = changed.diagnostics.cache_miss_reason
    assert reason is not None
    assert reason.type == "system_changed"
    assert reason.cache_missed_input_tokens > 0
    edited = ask("A. " + _SYSTEM, "No. " + _LONG, previous=first.id)
    assert edited.diagnostics is not None
    assert edited.diagnostics.cache_miss_reason is not None
    assert edited.diagnostics.cache_miss_reason.type == "messages_changed"
    unknown = ask("A. " + _SYSTEM, _LONG, previous="msg_0")
    assert unknown.diagnostics is not None
    assert unknown.diagnostics.cache_miss_reason is not None
    assert unknown.diagnostics.cache_miss_reason.type == "previous_message_not_found"


def test_a_streamed_message_tells_at_its_start(anthropic_client: anthropic.Anthropic) -> None:
    ask = {"model": "any", "max_tokens": 4}
    first = anthropic_client.messages.create(messages=[{"role": "user", "content": "C. " + _LONG}], **ask)
    changed = [{"role": "user", "content": "D. " + _LONG}]
    with anthropic_client.messages.stream(messages=changed, diagnostics={"previous_message_id": first.id}, **ask) as stream:
        start = next(iter(stream))
        final = stream.get_final_message()
    assert start.type == "message_start"
    assert start.message.diagnostics == final.diagnostics
    assert final.diagnostics is not None
    reason = final.diagnostics.cache_miss_reason
    assert reason is not None
    assert reason.type == "messages_changed"


# -- whose answers ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_keys() -> Iterator[list[httpx2.Client]]:
    keys = ("first-key-0123", "second-key-0123")
    with served(access=Access(port=0, keys=keys)) as running:
        clients = [httpx2.Client(base_url=running.url, timeout=60, headers={"x-api-key": key}) for key in keys]
        yield clients
        for each in clients:
            each.close()


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
def test_answer_of_another_key_is_not_found(two_keys: list[httpx2.Client], path: str) -> None:
    fields = {"input": "Hi"} if path == "/v1/responses" else {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    foreign = two_keys[0].post(path, json=fields).json()["id"]
    options = {"comparison_response_id": foreign} if path == "/v1/responses" else {"previous_message_id": foreign}
    name = "prompt_cache_options" if path == "/v1/responses" else "diagnostics"
    told = [client.post(path, json={**fields, name: options}).json() for client in two_keys]
    if path == "/v1/responses":
        found = [answer["prompt_cache_diagnostics"]["type"] for answer in told]
        assert found == ["cache_hit", "comparison_response_not_found"]
    else:
        assert told[0]["diagnostics"] is None
        assert told[1]["diagnostics"]["cache_miss_reason"]["type"] == "previous_message_not_found"


def test_answer_that_is_forgotten_is_not_found() -> None:
    with served(limits=Limits(noted_answers=1)) as running, httpx2.Client(base_url=running.url, timeout=60) as http:
        ids = [http.post("/v1/responses", json={"input": "Hi", "max_output_tokens": 1}).json()["id"] for _ in range(2)]
        told = [
            http.post("/v1/responses", json={"input": "Hi", "prompt_cache_options": {"comparison_response_id": each}}).json()
            for each in ids
        ]
    assert [each["prompt_cache_diagnostics"]["type"] for each in told] == ["comparison_response_not_found"] * 2


@pytest.mark.parametrize("wrong", [1, "x" * 300, ["a"], {"a": 1}, True])
def test_id_of_another_form_is_refused(http: httpx2.Client, wrong: object) -> None:
    response = http.post("/v1/responses", json={"input": "Hi", "prompt_cache_options": {"comparison_response_id": wrong}})
    message = http.post(
        "/v1/messages",
        json={"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "diagnostics": {"previous_message_id": wrong}},
    )
    assert (response.status_code, message.status_code) == (400, 400)
