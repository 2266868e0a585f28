"""Patterns of this year's CVEs of other servers: token ids that the tokenizer knows and the logits do not, and grammars."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.asgi_client import World, opened_world
from support.bundled_variants import BEYOND, with_token_beyond_logits

CHAT, COMPLETION, SCORE = "/v1/chat/completions", "/v1/completions", "/v1/score"
MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
HI = [{"role": "user", "content": "Hi"}]
GOOD: dict[str, dict[str, Any]] = {
    CHAT: {"messages": HI, "max_tokens": 1},
    COMPLETION: {"prompt": "Hi", "max_tokens": 1},
    MESSAGES: {"messages": HI, "max_tokens": 1},
    RESPONSES: {"input": "Hi", "max_output_tokens": 1},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server of a model whose tokenizer has a token that its logits have not."""
    model: Path = with_token_beyond_logits(tmp_path_factory.mktemp("wide"))
    with opened_world({"max_context": 256}, model=model) as opened:
        yield opened


def status_of(world: World, path: str, fields: dict[str, Any]) -> int:
    reply = world.post(path, {**GOOD.get(path, {}), **fields})
    assert reply.status in (200, 400), reply.body
    return reply.status


def hostile_ids(world: World) -> list[Any]:
    width = world.service.vocab_size
    assert world.service.source.tokenizer.vocab_size == width + 1, "the tokenizer is wider than the logits"
    return [
        width,
        world.service.source.tokenizer.vocab_size,
        2**31 - 1,
        2**31,
        2**32,
        2**32 + 5,
        2**63 - 1,
        2**63,
        -1,
        -(2**31),
        True,
        5.0,
        "5",
        None,
    ]


# -- ids in every field that takes them -------------------------------------------------

IN_PROMPTS = {
    "completion": (COMPLETION, lambda each: {"prompt": [5, each]}),
    "one_of_several_prompts": (COMPLETION, lambda each: {"prompt": [[5], [6, each]]}),
    "scored_prompt": (SCORE, lambda each: {"prompt": [5, each]}),
    "context_of_a_score": (SCORE, lambda each: {"prompt": [5], "context": [6, each]}),
    "detokenized": ("/detokenize", lambda each: {"tokens": [5, each]}),
}


@pytest.mark.parametrize("name", IN_PROMPTS)
def test_vllm_cve_2026_116174_ids_of_prompts_are_checked_against_the_logits(world: World, name: str) -> None:
    path, fields = IN_PROMPTS[name]
    assert status_of(world, path, fields(world.service.vocab_size - 1)) == 200
    assert [status_of(world, path, fields(each)) for each in hostile_ids(world)] == [400] * 14


@pytest.mark.parametrize("path", [CHAT, COMPLETION, MESSAGES, RESPONSES])
@pytest.mark.parametrize("field", ["allowed_token_ids", "stop_token_ids"])
def test_vllm_cve_2026_93840_ids_in_lists_are_checked_against_the_logits(world: World, path: str, field: str) -> None:
    assert status_of(world, path, {field: [world.service.vocab_size - 1]}) == 200
    assert [status_of(world, path, {field: [5, each]}) for each in hostile_ids(world)] == [400] * 14


@pytest.mark.parametrize("path", [CHAT, COMPLETION, MESSAGES, RESPONSES])
def test_vllm_cve_2026_93840_ids_of_biases_are_checked_against_the_logits(world: World, path: str) -> None:
    width = world.service.vocab_size
    assert status_of(world, path, {"logit_bias": {str(width - 1): 1}}) == 200
    hostile = (str(width), str(width + 1), "2147483648", "9999999999", "-1", "5.0", " 5", "", "\u0665", "1e3", "0x5", "5" * 30)
    assert [status_of(world, path, {"logit_bias": {each: 1}}) for each in hostile] == [400] * len(hostile)


@pytest.mark.parametrize("bias", [101, -101, 1e300, "1", None, True, [1]])
def test_values_of_biases_are_numbers_within_bounds(world: World, bias: object) -> None:
    assert status_of(world, CHAT, {"logit_bias": {"5": bias}}) == 400


def test_vllm_cve_2026_93989_banned_word_that_is_a_token_beyond_the_logits(world: World) -> None:
    alone = world.post(COMPLETION, {"prompt": "Hi", "max_tokens": 8, "temperature": 0}).content["choices"]
    banned = world.post(COMPLETION, {"prompt": "Hi", "max_tokens": 8, "temperature": 0, "bad_words": [BEYOND]})
    assert (banned.status, banned.content["choices"]) == (200, alone)


@pytest.mark.parametrize("path", [COMPLETION, SCORE])
def test_vllm_cve_2026_116174_text_of_a_token_beyond_the_logits_is_refused(world: World, path: str) -> None:
    assert status_of(world, path, {"prompt": f"Hi {BEYOND}"}) == 400
    assert status_of(world, COMPLETION, {"prompt": "Hi"}) == 200


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
def test_text_of_a_token_beyond_the_logits_is_text_in_a_message(world: World, path: str) -> None:
    name = "input" if path == RESPONSES else "messages"
    assert status_of(world, path, {name: [{"role": "user", "content": f"Hi {BEYOND}"}]}) == 200


@pytest.mark.parametrize(
    ("path", "field"),
    [
        (CHAT, "top_logprobs"),
        (COMPLETION, "logprobs"),
        (SCORE, "top_logprobs"),
        (COMPLETION, "prompt_logprobs"),
        (CHAT, "prompt_logprobs"),
    ],
)
def test_pysec_2026_4350_no_more_log_probabilities_than_the_limit(world: World, path: str, field: str) -> None:
    extra = {"prompt": "a b"} if path == SCORE else {"logprobs": True} if field == "top_logprobs" else {}
    assert status_of(world, path, {**extra, field: 20}) == 200
    assert [status_of(world, path, {**extra, field: each}) for each in (21, 128, 129, 2**31, 2**63, -1, -2)] == [400] * 7


def test_pysec_2026_4350_ids_of_wanted_log_probabilities_are_not_read(world: World) -> None:
    reply = world.post(CHAT, {**GOOD[CHAT], "logprob_token_ids": list(range(5000))})
    assert (reply.status, reply.headers["x-quire-ignored"]) == (200, "logprob_token_ids")


# -- grammars: refused through every door ---------------------------------------------------

BOMBS: dict[str, Any] = {
    "schema_of_many_properties": {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(5000)}},
    "deep_schema": None,
    "pattern": {"type": "string", "pattern": "[ab]*a[ab]{20}(a|aa)+$"},
    "remote_reference": {"$ref": "http://127.0.0.1:9/schema.json"},
    "lark": 'start: s\ns: s s | "a" | "b"',
    "triggers": [{"type": 10**6, "value": "x", "token": -1}],
    "nothing": {},
}
GRAMMAR_FIELDS = (
    "guided_json", "guided_regex", "guided_grammar", "guided_choice", "grammar", "json_schema", "regex", "ebnf", "structural_tag",
)  # fmt: skip
DOORS = (
    (CHAT, lambda bomb: {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": bomb}}}),
    (CHAT, lambda bomb: {"response_format": {"type": "json_object", "schema": bomb}}),
    (CHAT, lambda bomb: {"tools": [{"type": "function", "function": {"name": "f", "strict": True, "parameters": bomb}}]}),
    (CHAT, lambda bomb: {"tools": [{"type": "custom", "custom": {"name": "f", "format": {"type": "grammar", "grammar": bomb}}}]}),
    (CHAT, lambda bomb: {"functions": [{"name": "f", "parameters": bomb}]}),
    (CHAT, lambda bomb: {"structured_outputs": {"json": bomb}}),
    (COMPLETION, lambda bomb: {"response_format": {"type": "json_schema", "json_schema": {"schema": bomb}}}),
    (RESPONSES, lambda bomb: {"text": {"format": {"type": "json_schema", "name": "x", "schema": bomb}}}),
    (MESSAGES, lambda bomb: {"output_config": {"format": {"type": "json_schema", "schema": bomb}}}),
    *((path, lambda bomb, name=name: {name: bomb}) for path in (CHAT, COMPLETION) for name in GRAMMAR_FIELDS),
)


@pytest.mark.parametrize("name", BOMBS)
def test_vllm_cve_2026_55574_no_door_lets_a_grammar_in(world: World, name: str) -> None:
    """Also CVE-2026-105757 (three forgotten sites) and llama.cpp's CVE-2026-134540 and CVE-2026-2069."""
    bomb = BOMBS[name]
    if name == "deep_schema":
        bomb = {"type": "object"}
        for _ in range(80):
            bomb = {"type": "object", "properties": {"a": bomb}}
    replies = [world.post(path, {**GOOD[path], **fields(bomb)}) for path, fields in DOORS]
    assert [reply.status for reply in replies] == [400] * len(DOORS)
    assert all(len(reply.body) <= 4096 for reply in replies)
    assert world.post(CHAT, GOOD[CHAT]).status == 200


def test_llama_cpp_cve_2026_107183_no_template_of_a_request_is_rendered(world: World) -> None:
    loop = "{% for x in range(10**9) %}{{ x }}{% endfor %}"
    assert status_of(world, CHAT, {"chat_template": loop}) == 400
    assert status_of(world, CHAT, {"chat_template_kwargs": {"chat_template": loop}}) == 400
    for name in ("messages", "tools", "add_generation_prompt", "raise_exception", "__class__", "self", "namespace"):
        assert status_of(world, CHAT, {"chat_template_kwargs": {name: "x"}}) == 400
