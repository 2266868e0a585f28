"""`/v1/kv`: what the cache holds and did, for those whose answers they are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from quire.server.limits import Limits
from quire.server.serving import Access
from support.gated_executor import GatedExecutor
from support.served import Served, served

_KEYS = ("first-key-0123", "second-key-0123")
_TEXT = "The quick brown fox jumps over the lazy dog, and then it goes home to read about foxes that jump over dogs. " * 4


def chat(http: httpx2.Client, *texts: str, **fields: Any) -> dict[str, Any]:
    roles = ("user", "assistant")
    messages = [{"role": roles[idx % 2], "content": text} for idx, text in enumerate(texts)]
    answer = http.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 2, "temperature": 0} | fields)
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


@pytest.fixture(scope="module")
def keyed() -> Iterator[Served]:
    with served(access=Access(port=0, keys=_KEYS)) as running:
        yield running


@pytest.fixture(scope="module")
def clients(keyed: Served) -> Iterator[list[httpx2.Client]]:
    made = [httpx2.Client(base_url=keyed.url, timeout=60, headers={"authorization": f"Bearer {key}"}) for key in _KEYS]
    yield made
    for client in made:
        client.close()


# -- explain ---------------------------------------------------------------------------


def test_explanation_of_an_answer_agrees_with_its_usage(http: httpx2.Client) -> None:
    first = chat(http, _TEXT)
    second = chat(http, _TEXT + " What else?")
    for answer in (first, second):
        usage = answer["usage"]
        (prompt,) = http.get(f"/v1/kv/explain/{answer['id']}").json()["prompts"]
        assert prompt["tokens"] == usage["prompt_tokens"]
        assert prompt["reused_tokens"] == usage["prompt_tokens_details"]["cached_tokens"]
        assert prompt["computed_tokens"] == prompt["tokens"] - prompt["reused_tokens"]
    assert prompt["reused_tokens"] > 0
    assert prompt["text"].startswith(f"reused {prompt['reused_tokens']} of {prompt['tokens']} tokens")


def test_comparison_names_the_first_differing_token(http: httpx2.Client) -> None:
    one = chat(http, _TEXT, "Yes.", "And now?", return_token_ids=True)
    two = chat(http, _TEXT, "No.", "And now?", return_token_ids=True)
    pairs = zip(one["prompt_token_ids"], two["prompt_token_ids"], strict=False)
    place = next(idx for idx, (left, right) in enumerate(pairs) if left != right)
    comparison = http.get(f"/v1/kv/explain/{two['id']}", params={"compared_with": one["id"]}).json()["comparison"]
    assert (comparison["first_differing_token"], comparison["equal_tokens"]) == (place, place)
    assert (comparison["changed"], comparison["same_salt"]) == ("messages", True)
    again = http.get(f"/v1/kv/explain/{one['id']}", params={"compared_with": one["id"]}).json()["comparison"]
    assert (again["first_differing_token"], again["changed"]) == (None, None)
    assert again["equal_tokens"] == len(one["prompt_token_ids"])


def test_every_api_is_found_by_the_id_of_its_answer(http: httpx2.Client) -> None:
    prompts = {"prompt": ["Once upon a time", "Far away"], "max_tokens": 1}
    completion = http.post("/v1/completions", json=prompts).json()
    assert len(http.get(f"/v1/kv/explain/{completion['id']}").json()["prompts"]) == 2
    hello = [{"role": "user", "content": "Hello"}]
    response = http.post("/v1/responses", json={"input": hello, "max_output_tokens": 1}).json()
    message = http.post("/v1/messages", json={"messages": hello, "max_tokens": 1}).json()
    for answer in (response, message):
        assert len(http.get(f"/v1/kv/explain/{answer['id']}").json()["prompts"]) == 1
    score = http.post("/v1/score", json={"prompt": "Once upon a time"}).json()
    assert len(http.get(f"/v1/kv/explain/{score['id']}").json()["prompts"]) == 1
    with http.stream("POST", "/v1/chat/completions", json={"messages": [{"role": "user", "content": "Hi"}], "stream": True}) as s:
        line = next(line for line in s.iter_lines() if line.startswith("data: "))
        answer_id = line.split('"id":"')[1].split('"')[0]
        assert http.get(f"/v1/kv/explain/{answer_id}").json()["prompts"][0]["tokens"] > 0


def test_completions_of_one_prompt_are_explained_by_the_first(http: httpx2.Client) -> None:
    answer = chat(http, _TEXT + "n", n=3, temperature=1)
    (prompt,) = http.get(f"/v1/kv/explain/{answer['id']}").json()["prompts"]
    assert prompt["reused_tokens"] == answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_request_that_waits_is_known_and_not_explained_yet() -> None:
    body = {"prompt": _TEXT, "max_tokens": 1, "stream": True}
    with served() as running, httpx2.Client(base_url=running.url, timeout=60) as http:
        engine = running.service.engine
        engine.core.executor = gated = GatedExecutor(engine.core.executor)  # type: ignore[assignment]
        gated.gate.clear()
        try:
            with (
                http.stream("POST", "/v1/completions", json=body) as first,
                http.stream("POST", "/v1/completions", json=body) as second,
            ):
                ids = [row["id"] for row in http.get("/v1/kv/ledger").json()["data"]]
                (waiting,) = http.get(f"/v1/kv/explain/{ids[0]}").json()["prompts"]
                gated.gate.set()
                assert "[DONE]" in list(first.iter_lines())[-2]
                assert "[DONE]" in list(second.iter_lines())[-2]
        finally:
            gated.gate.set()
        (explained,) = http.get(f"/v1/kv/explain/{ids[0]}").json()["prompts"]
    assert len(ids) == 2
    assert (waiting["reused_tokens"], waiting["reason"], waiting["text"]) == (None, None, None)
    assert waiting["tokens"] == explained["tokens"]
    assert explained["reused_tokens"] > 0


def test_engine_that_has_ended_has_no_map() -> None:
    with served() as running, httpx2.Client(base_url=running.url, timeout=60) as http:
        asyncio.run(running.service.engine.close())
        answer = http.get("/v1/kv/map")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")


@pytest.mark.parametrize("answer_id", ["chatcmpl-0", "request-1", "x" * 300, "%2e%2e", "None"])
def test_unknown_answer_is_not_found(http: httpx2.Client, answer_id: str) -> None:
    answer = http.get(f"/v1/kv/explain/{answer_id}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "answer_not_found")
    mine = chat(http, "Hi")["id"]
    answer = http.get(f"/v1/kv/explain/{mine}", params={"compared_with": "chatcmpl-0"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "compared_with")


def test_answer_of_another_key_is_as_unknown_as_one_that_never_was(clients: list[httpx2.Client]) -> None:
    mine, other = clients
    answer_id = chat(mine, "Hi")["id"]
    assert mine.get(f"/v1/kv/explain/{answer_id}").status_code == 200
    foreign, unknown = other.get(f"/v1/kv/explain/{answer_id}"), other.get("/v1/kv/explain/chatcmpl-0")
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.json() == unknown.json()
    compared = other.get(f"/v1/kv/explain/{chat(other, 'Hi')['id']}", params={"compared_with": answer_id})
    assert compared.status_code == 404


@pytest.mark.parametrize("path", ["map", "holdings", "ledger", "explain/chatcmpl-0", "other"])
def test_nothing_is_told_without_a_key(keyed: Served, path: str) -> None:
    with httpx2.Client(base_url=keyed.url) as stranger:
        assert stranger.get(f"/v1/kv/{path}").status_code == 401


def test_explanation_tells_both_texts_where_prompts_part_and_names_no_other_request(http: httpx2.Client) -> None:
    first, second = chat(http, _TEXT + " One more apple."), chat(http, _TEXT + " One more pear.")
    (prompt,) = http.get(f"/v1/kv/explain/{second['id']}").json()["prompts"]
    assert prompt["reason"] in ("diverged", "partial", "evicted")
    if prompt["reason"] == "diverged":
        assert prompt["diverged_text"] != prompt["cached_text"]
        assert repr(prompt["cached_text"]) in prompt["text"]
    assert prompt["admissions"] == [prompt["text"]]
    assert "request-" not in prompt["text"]
    assert first["id"] not in prompt["text"]


# -- holdings ---------------------------------------------------------------------------


def test_holdings_sum_up_and_show_a_request_that_runs(http: httpx2.Client) -> None:
    body = {"prompt": _TEXT, "max_tokens": 1500, "stream": True, "ignore_eos": True}
    with http.stream("POST", "/v1/completions", json=body) as stream:
        lines = (line for line in stream.iter_lines() if line.startswith("data: "))
        next(lines)
        found = http.get("/v1/kv/holdings", params={"limit": 1024}).json()
    assert [request["blocks"] for request in found["requests"]] == [found["used_blocks"]]
    assert sum(tenant["bytes"] for tenant in found["tenants"]) == found["used_blocks"] * found["bytes_per_block"]
    assert sum(run["blocks"] - run["held_blocks"] for run in found["prefixes"]) == found["cached_blocks"]
    assert any(run["evicted_after_allocations"] for run in found["prefixes"])
    page = http.get("/v1/kv/holdings", params={"first": 1, "limit": 1}).json()
    assert (len(page["prefixes"]), page["next"]) == (1, 2 if len(found["prefixes"]) > 2 else None)


def test_holdings_of_several_keys_tell_sums_only(clients: list[httpx2.Client]) -> None:
    found = clients[0].get("/v1/kv/holdings").json()
    assert (found["requests"], found["tenants"], found["prefixes"], found["next"]) == (None, None, None, None)
    assert found["empty_blocks"] > 0


# -- ledger ----------------------------------------------------------------------------


def test_ledger_lists_the_answers_of_its_key_newest_first(clients: list[httpx2.Client]) -> None:
    mine, other = clients
    foreign = chat(other, "Hello")["id"]
    ids = [chat(mine, f"{_TEXT} {number}", prompt_cache_key=f"label {number}" + "x" * 300)["id"] for number in range(3)]
    rows = mine.get("/v1/kv/ledger").json()["data"]
    assert [row["id"] for row in rows[:3]] == ids[::-1]
    assert foreign not in [row["id"] for row in rows]
    assert (rows[0]["label"][:7], len(rows[0]["label"])) == ("label 2", 256)
    assert rows[0]["reused_tokens"] > 0
    assert rows[0]["reasons"] == ["diverged"]
    page = mine.get("/v1/kv/ledger", params={"first": 1, "limit": 1}).json()
    assert ([row["id"] for row in page["data"]], page["has_more"]) == ([ids[1]], True)


def test_label_reaches_no_key(http: httpx2.Client) -> None:
    chat(http, _TEXT + "label", prompt_cache_key="one")
    again = chat(http, _TEXT + "label", prompt_cache_key="two")
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


def test_ledger_keeps_what_the_engine_forgets() -> None:
    with served() as running, httpx2.Client(base_url=running.url, timeout=60) as http:
        answer_id = chat(http, _TEXT)["id"]
        deadline = time.monotonic() + 10
        while running.service.runs.num_open and time.monotonic() < deadline:  # it is kept once the answer was sent
            time.sleep(0.001)
        ledger = running.service.engine.core.scheduler.manager.ledger
        for number in range(5000):
            ledger.open(f"other-{number}")
            ledger.close(f"other-{number}")
        (prompt,) = http.get(f"/v1/kv/explain/{answer_id}").json()["prompts"]
    assert prompt["reused_tokens"] == 0


def test_ledger_is_bounded() -> None:
    with served(limits=Limits(noted_answers=3)) as running, httpx2.Client(base_url=running.url, timeout=60) as http:
        ids = [chat(http, "Hi")["id"] for _ in range(5)]
        assert [row["id"] for row in http.get("/v1/kv/ledger").json()["data"]] == ids[:1:-1]
        assert http.get(f"/v1/kv/explain/{ids[0]}").status_code == 404


# -- map -------------------------------------------------------------------------------


def test_map_counts_every_block_and_pages_through_all(http: httpx2.Client, server: Served) -> None:
    chat(http, _TEXT)
    found = http.get("/v1/kv/map").json()
    num_blocks = server.service.engine.core.scheduler.manager.pool.num_blocks
    assert found["num_blocks"] == num_blocks == sum(found[state]["blocks"] for state in ("used", "cached", "empty"))
    assert found["cached"]["blocks"] > 0
    assert 0 < found["cached"]["tokens"] <= found["cached"]["blocks"] * found["block_size"]
    blocks, first = [], 0
    while first is not None:
        page = http.get("/v1/kv/map", params={"first": first, "limit": 100}).json()
        blocks += page["blocks"]
        first = page["next"]
    assert [block["id"] for block in blocks] == list(range(num_blocks))
    counted = {state: [block for block in blocks if block["state"] == state] for state in ("used", "cached", "empty")}
    for state, of_state in counted.items():
        assert len(of_state) == found[state]["blocks"]
        assert sum(block["tokens"] for block in of_state) == found[state]["tokens"]


def test_map_shows_a_request_that_runs(http: httpx2.Client, server: Served) -> None:
    body = {"prompt": _TEXT, "max_tokens": 1500, "stream": True, "ignore_eos": True}
    with http.stream("POST", "/v1/completions", json=body) as stream:
        lines = (line for line in stream.iter_lines() if line.startswith("data: "))
        next(lines)
        found = http.get("/v1/kv/map", params={"limit": 1024}).json()
        answer_id = http.get("/v1/kv/ledger").json()["data"][0]["id"]
        tokens = http.get(f"/v1/kv/explain/{answer_id}").json()["prompts"][0]["tokens"]
    held = [block for block in found["blocks"] if block["state"] == "used"]
    assert found["used"]["tokens"] == sum(block["tokens"] for block in held) >= tokens
    assert {block["holders"] for block in held} == {1}
    assert server.service.engine.is_alive


def test_map_of_several_keys_tells_sums_only(clients: list[httpx2.Client]) -> None:
    found = clients[0].get("/v1/kv/map").json()
    assert (found["blocks"], found["next"]) == (None, None)
    assert found["num_blocks"] > 0


@pytest.mark.parametrize(
    "query", ["first=-1", "first=a", "limit=0", "limit=1025", "limit=1e3", "first=99999999999", "limit=", "first=1_0"]
)
@pytest.mark.parametrize("path", ["map", "holdings", "ledger"])
def test_wrong_pages_are_refused(http: httpx2.Client, path: str, query: str) -> None:
    answer = http.get(f"/v1/kv/{path}?{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, query.partition("=")[0])


def test_pages_behind_the_end_are_empty(http: httpx2.Client) -> None:
    assert http.get("/v1/kv/map?first=2000000000").json()["blocks"] == []
    assert http.get("/v1/kv/ledger?first=2000000000").json()["data"] == []
