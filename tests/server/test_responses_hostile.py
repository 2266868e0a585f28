"""What no client of `/v1/responses` should send: small errors, no 5xx, and nothing that was sent is repeated."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

MARKER = "s3cret-marker"
SEED: dict[str, Any] = {
    "model": "any",
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]},
        {"role": "user", "content": "Hi"},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "x"}], "content": []},
        {
            "type": "message",
            "role": "assistant",
            "id": "msg_1",
            "content": [{"type": "output_text", "text": "Hi", "annotations": []}],
        },
        {"role": "user", "content": [{"type": "input_text", "text": "Bye"}, "now"]},
    ],
    "instructions": "You are brief.",
    "max_output_tokens": 1,
    "tools": [{"type": "web_search"}],
    "tool_choice": "auto",
    "include": ["message.output_text.logprobs"],
    "top_logprobs": 2,
    "reasoning": {"effort": "low", "summary": "auto"},
    "text": {"format": {"type": "text"}, "verbosity": "low"},
    "prompt_cache_options": {"comparison_response_id": "resp_1", "prewarm": False, "mode": "implicit"},
    "metadata": {"a": "b"},
    "store": True,
    "stream": False,
}
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 2**62, 0.5, "", MARKER, MARKER * 2000, [], {}, [MARKER], [[[MARKER]]], {MARKER: MARKER}, [None], [{}],
    {"type": MARKER}, {"type": None}, [{"type": MARKER, "id": MARKER}], [{"role": MARKER}], list(range(3000)),
)  # fmt: skip


def places_in(value: Any, *above: int | str) -> Iterator[tuple[int | str, ...]]:
    """Yields where a value stands inside of another."""
    if above:
        yield above
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places_in(each, *above, key)


def with_value(place: tuple[int | str, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(SEED)
    holder: Any = changed
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    return changed


def check(answer: httpx2.Response) -> None:
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert len(answer.content) <= 4096
        assert MARKER not in answer.text
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("place", list(places_in(SEED)), ids=str)
def test_any_value_in_any_place_is_answered_or_refused(http: httpx2.Client, place: tuple[int | str, ...]) -> None:
    for value in VALUES:
        body = with_value(place, value)
        check(http.post("/v1/responses/input_tokens", json=body))
        if place[0] != "input":
            check(http.post("/v1/responses", json=body))


def test_several_wrong_values_at_once_are_refused_too(http: httpx2.Client) -> None:
    rng = random.Random(20)
    places = list(places_in(SEED))
    for _ in range(200):
        body = copy.deepcopy(SEED)
        for place in rng.sample(places, 3):
            top = place[0]
            body[top] = with_value(place, rng.choice(VALUES))[top]
        check(http.post("/v1/responses", json=body))


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_only_post_makes_a_response(http: httpx2.Client, method: str) -> None:
    assert http.request(method, "/v1/responses").status_code == 405


def test_ids_of_items_are_nobodys_keys(http: httpx2.Client) -> None:
    """Two clients that use one id for their messages get answers of their own."""
    for text in ("What is the capital of France?", "What is the capital of Spain?"):
        item = {"id": "msg_same", "role": "user", "content": text}
        named, plain = (
            http.post("/v1/responses", json={"input": given, "temperature": 0, "max_output_tokens": 9}).json()
            for given in ([item], text)
        )
        assert named["output"][0]["content"] == plain["output"][0]["content"]
        assert named["id"] != plain["id"]
        assert http.post("/v1/responses", json={"input": [{"type": "item_reference", "id": "msg_same"}]}).status_code == 404


def test_picture_is_refused_and_never_fetched(http: httpx2.Client) -> None:
    part = {"type": "input_image", "image_url": "http://127.0.0.1:9/never"}
    answer = http.post("/v1/responses", json={"input": [{"role": "user", "content": [part]}]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input.0.content.0")
