"""Patterns of this year's CVEs of other servers: ids of clients as keys, and state that one request leaves to another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from quire.server.serving import Access
from support.asgi_client import Asked, World, opened_world, posting
from support.stream_rules import data_of

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
LONG = "A text that fills more than one block of the cache: " + " ".join(map(str, range(60)))
FREE = {"prompt": "Once upon a time", "max_tokens": 12, "temperature": 1, "seed": 5}
KEYS = ("first-key-of-the-suite", "second-key-of-the-suite")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A server that computes two requests at a time, so that their places are used again and again."""
    with opened_world({"max_num_seqs": 2, "max_context": 512}) as opened:
        yield opened


@pytest.fixture(scope="module")
def tenants() -> Iterator[World]:
    with opened_world({"max_context": 512}, access=Access(keys=KEYS)) as opened:
        yield opened


def choices_of(world: World, *wishes: dict[str, Any]) -> list[Any]:
    replies = world.ask(*(posting(COMPLETION, wish) for wish in wishes))
    assert {reply.status for reply in replies} == {200}, [reply.body for reply in replies if reply.status != 200]
    return [reply.content["choices"] for reply in replies]


def cached(world: World, fields: dict[str, Any], headers: dict[str, str] | None = None) -> int:
    reply = world.post(COMPLETION, {"prompt": LONG, "max_tokens": 1, **fields}, headers)
    number = reply.content["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert isinstance(number, int)
    return number


# -- ids of clients as keys -----------------------------------------------------------


def test_vllm_cve_2026_105754_one_request_id_64_times_at_once(world: World) -> None:
    asked = posting(COMPLETION, FREE)
    asked = replace(asked, headers={**asked.headers, "x-request-id": "the-same"})
    replies = world.ask(*[asked] * 64)
    assert {reply.status for reply in replies} == {200}
    assert len({json.dumps(reply.content["choices"]) for reply in replies}) == 1
    assert len({reply.headers["x-request-id"] for reply in replies} - {"the-same"}) == 64


@pytest.mark.parametrize("name", ["", "a" * 5000, "../../x", "req_1/0", "\xff", "request-1"])
def test_vllm_cve_2026_105755_odd_request_id_is_neither_used_nor_repeated(world: World, name: str) -> None:
    reply = world.post(COMPLETION, FREE, {"x-request-id": name})
    assert reply.status == 200
    assert reply.headers["x-request-id"] == reply.headers["request-id"]
    assert reply.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("field", ["rid", "request_id", "id", "session_id", "id_slot"])
def test_sglang_cve_2026_112266_id_in_the_body_names_nothing(world: World, field: str) -> None:
    ids = ("request", "request-1", "request-", "", 0)
    replies = world.ask(*(posting(COMPLETION, {**FREE, field: each}) for each in ids))
    assert {json.dumps(reply.content["choices"]) for reply in replies} == {json.dumps(choices_of(world, FREE)[0])}
    assert {reply.headers["x-quire-ignored"] for reply in replies} == {field}


def test_sglang_cve_2026_112266_no_path_ends_a_request_by_a_prefix_of_its_id(world: World) -> None:
    for path in ("/abort_request", "/v1/abort", "/cancel", "/v1/completions/cancel"):
        assert world.post(path, {"rid": "", "abort_all": True}).status == 404


def test_sglang_cve_2026_109225_salt_of_a_client_opens_no_other_cache(world: World) -> None:
    fields = {"prompt": f"salt {LONG}"}
    assert cached(world, {**fields, "cache_salt": "mine"}) == 0
    assert cached(world, {**fields, "cache_salt": "yours"}) == 0
    assert cached(world, fields) == 0
    assert cached(world, {**fields, "cache_salt": "mine"}) > 0


@pytest.mark.parametrize("field", ["prompt_cache_key", "cache_key", "extra_key", "kv_cache_key"])
def test_sglang_cve_2026_111392_key_of_a_client_is_no_key_of_the_cache(world: World, field: str) -> None:
    fields = {"prompt": f"{field} {LONG}", "cache_salt": field}
    assert cached(world, {**fields, field: "one"}) == 0
    assert cached(world, {**fields, field: "another"}) > 0, "equal prompts are equal whatever a client calls them"
    assert cached(world, {**fields, "prompt": f"another {field} {LONG}", field: "one"}) == 0, "different ones stay different"


def test_sglang_cve_2026_111392_salt_crosses_no_tenants(tenants: World) -> None:
    first, second = ({"x-api-key": key} for key in KEYS)
    assert cached(tenants, {"cache_salt": "shared"}, first) == 0
    assert cached(tenants, {"cache_salt": "shared"}, second) == 0
    assert cached(tenants, {"cache_salt": "shared"}, first) > 0


def test_answer_ids_cannot_be_guessed(world: World) -> None:
    ids = [reply.content["id"] for reply in world.ask(*[posting(COMPLETION, FREE)] * 20)]
    assert len({each.removeprefix("cmpl-")[:12] for each in ids}) == 20
    assert all(len(each) >= len("cmpl-") + 24 for each in ids)


# -- state left in a place that is used again -------------------------------------------

LEAVING = {
    "vllm_cve_2026_114049_token_mask": {"allowed_token_ids": [100, 200]},
    "vllm_cve_2026_105922_penalties": {"frequency_penalty": 2, "presence_penalty": 2, "repetition_penalty": 5},
    "banned_words": {"bad_words": ["e", "a", "o"]},
    "biases": {"logit_bias": {"0": 100, "5": -100}},
    "stops": {"stop": ["e"], "stop_token_ids": [100, 101, 102]},
    "least_length": {"min_tokens": 30, "max_tokens": 40},
    "ignored_end": {"ignore_eos": True, "max_tokens": 40},
    "log_probabilities": {"logprobs": 20, "prompt_logprobs": 20},
    "greedy": {"temperature": 0},
    "filters": {"top_k": 1, "top_p": 0.01, "min_p": 1},
    "many_choices": {"n": 8},
}


@pytest.mark.parametrize("name", LEAVING)
def test_nothing_of_a_request_stays_in_its_place(world: World, name: str) -> None:
    (alone,) = choices_of(world, FREE)
    held = {**FREE, **LEAVING[name]}
    (held_alone,) = choices_of(world, held)
    mixed = choices_of(world, *[held, FREE, FREE, held] * 4)
    assert [each for idx, each in enumerate(mixed) if idx % 4 in (1, 2)] == [alone] * 8
    assert [each for idx, each in enumerate(mixed) if idx % 4 in (0, 3)] == [held_alone] * 8


@pytest.mark.parametrize("name", ["vllm_cve_2026_114049_token_mask", "vllm_cve_2026_105922_penalties"])
def test_nothing_of_an_aborted_request_stays_in_its_place(world: World, name: str) -> None:
    (alone,) = choices_of(world, FREE)
    for _ in range(5):
        world.leave(posting(COMPLETION, {**FREE, **LEAVING[name], "max_tokens": 400, "ignore_eos": True, "stream": True}))
        assert choices_of(world, FREE, FREE, FREE) == [alone] * 3


def test_vllm_cve_2026_114049_mask_survives_a_preemption_and_reaches_no_neighbor() -> None:
    held = {**FREE, "allowed_token_ids": [100, 200, 300], "max_tokens": 60, "ignore_eos": True, "return_token_ids": True}
    free = {**FREE, "max_tokens": 60, "ignore_eos": True}
    with opened_world({"max_context": 256}) as roomy:
        expected = choices_of(roomy, held, free)
    with opened_world({"max_context": 256, "kv_memory": "1MiB", "max_num_seqs": 8}) as tight:
        mixed = choices_of(tight, *[held, free] * 4)
    assert mixed[::2] == [expected[0]] * 4
    assert mixed[1::2] == [expected[1]] * 4
    assert set(expected[0][0]["token_ids"]) <= {100, 200, 300}


def test_stream_of_one_holds_no_text_of_another(world: World) -> None:
    prompts = [f"Number {number} is" for number in range(12)]
    alone = [choices_of(world, {**FREE, "prompt": prompt})[0][0]["text"] for prompt in prompts]
    replies = world.ask(*(posting(COMPLETION, {**FREE, "prompt": prompt, "stream": True}) for prompt in prompts))
    joined = [
        "".join(json.loads(each)["choices"][0]["text"] for each in data_of(reply.body) if each != "[DONE]") for reply in replies
    ]
    assert joined == alone


def test_unknown_method_and_body_of_nothing_leave_no_run_behind(world: World) -> None:
    world.ask(*(Asked(method=method, path=CHAT) for method in ("GET", "BREW", "POST")))
    assert world.service.runs.num_open == 0
