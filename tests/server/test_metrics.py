"""`GET /metrics`: what was asked is what is counted, and nothing that a client sends becomes a series."""

from __future__ import annotations

import asyncio
import json
import random
import string
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from quire.server.auth import MIN_KEY_CHARS
from quire.server.limits import Limits
from quire.server.serving import Access
from support.gated_executor import GatedExecutor
from support.metrics_page import scrape
from support.served import Served, served

get, post, stream = (partial(ask, timeout=60) for ask in (httpx2.get, httpx2.post, httpx2.stream))
PROMPT = "one, two, three, four, five, six, seven, eight, " * 20
FIELDS = {"prompt": PROMPT, "max_tokens": 12, "ignore_eos": True, "temperature": 0}
KEY = "k" * MIN_KEY_CHARS


def _until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_counts_are_those_of_the_usage_that_clients_read() -> None:
    with served() as server:
        usages = [post(f"{server.url}/v1/completions", json=FIELDS | {"stop": stop}).json()["usage"] for stop in ([], [","])]
        page = scrape(server)
        assert page.value("quire_prompt_tokens_total") == sum(usage["prompt_tokens"] for usage in usages)
        cached = [usage["prompt_tokens_details"]["cached_tokens"] for usage in usages]
        assert page.value("quire_cached_tokens_total") == sum(cached) > 0
        assert page.value("quire_generated_tokens_total") == sum(usage["completion_tokens"] for usage in usages)
        assert page.value("quire_requests_ended_total", reason="length") == 1
        assert page.value("quire_requests_ended_total", reason="stop") == 1
        assert (
            page.value("quire_cache_misses_total", reason="cold") == page.value("quire_cache_misses_total", reason="partial") == 1
        )
        missed = sum(page.value("quire_cache_missed_tokens_total", reason=reason) for reason in ("cold", "partial"))
        assert missed == sum(usage["prompt_tokens"] for usage in usages) - sum(cached)
        for name in ("quire_queue_seconds", "quire_ttft_seconds", "quire_e2e_seconds"):
            assert page.value(f"{name}_count") == 2
        gaps = sum(usage["completion_tokens"] - 1 for usage in usages)
        assert page.value("quire_inter_token_seconds_count") == gaps
        assert page.value("quire_http_responses_total", route="/v1/completions", status="2xx") == 2


def test_blocks_and_the_tokens_in_them_are_told_while_a_request_runs_and_afterwards() -> None:
    with served() as server:
        core = server.service.engine.core
        core.executor = executor = GatedExecutor(core.executor)  # type: ignore[assignment]
        with stream("POST", f"{server.url}/v1/completions", json=FIELDS | {"stream": True}) as answer:
            chunks = answer.iter_raw()
            next(chunks)
            executor.gate.clear()
            time.sleep(0.2)
            page = scrape(server)
            num_blocks = page.value("quire_kv_blocks", state="used")
            assert page.value("quire_requests", state="running") == 1
            assert (num_blocks - 1) * 32 < page.value("quire_kv_tokens", state="used") <= num_blocks * 32
            executor.gate.set()
            b"".join(chunks)
        page = scrape(server)
        assert page.value("quire_kv_tokens", state="used") == page.value("quire_kv_blocks", state="used") == 0
        assert 0 < page.value("quire_kv_tokens", state="cached") <= page.value("quire_kv_blocks", state="cached") * 32
        assert (
            sum(page.value("quire_kv_blocks", state=state) for state in ("used", "cached", "empty")) == core.executor.num_blocks
        )


def test_evictions_are_counted_with_how_long_the_content_was_there() -> None:
    with served(options={"kv_memory": "6MiB"}) as server:
        rows = server.service.engine.core.executor.num_blocks * 32
        prompts = [f"{number}: {PROMPT}" for number in range(rows // 100)]
        for prompt in prompts:
            assert post(f"{server.url}/v1/completions", json=FIELDS | {"prompt": prompt, "max_tokens": 1}).status_code == 200
        page = scrape(server)
        num_evicted = page.value("quire_kv_evictions_total")
        assert num_evicted > 0
        assert page.value("quire_kv_residency_seconds_count") == page.value("quire_kv_idle_seconds_count") == num_evicted
        assert page.value("quire_kv_residency_seconds_sum") >= page.value("quire_kv_idle_seconds_sum") > 0


def test_what_was_refused_is_counted_by_reason() -> None:
    with served(names=("real",), limits=Limits(heartbeat_s=0.2)) as server:
        url = f"{server.url}/v1/completions"
        post(url, json={"prompt": "a", "n": 0})
        post(url, json={"prompt": [1] * 3000})
        post(url, json={"prompt": "a", "model": "unknown"})
        post(url, content=b"{}", headers={"content-type": "text/plain"})
        get(url)
        get(f"{server.url}/nothing")
        get(server.url, headers={"host": "elsewhere.example"})
        get(server.url, headers={f"x-{number}": "1" for number in range(200)})
        page = scrape(server)
        reasons = ("invalid", "context_length", "media_type", "method", "forbidden", "head_too_large")
        assert {reason: page.value("quire_rejected_total", reason=reason) for reason in reasons} == dict.fromkeys(reasons, 1)
        assert page.value("quire_rejected_total", reason="not_found") == 2
        assert page.value("quire_http_responses_total", route="other", status="4xx") == 1


def test_heartbeats_disconnects_and_errors_are_counted() -> None:
    with served(limits=Limits(heartbeat_s=0.2)) as server:
        core = server.service.engine.core
        core.executor = executor = GatedExecutor(core.executor)  # type: ignore[assignment]
        executor.gate.clear()
        with stream("POST", f"{server.url}/v1/completions", json=FIELDS | {"stream": True}) as answer:
            next(answer.iter_raw())
        _until(lambda: server.service.runs.num_open == 0)
        executor.gate.set()
        executor.error = RuntimeError("x")
        assert post(f"{server.url}/v1/completions", json=FIELDS).status_code == 500
        page = scrape(server)
        assert page.value("quire_heartbeats_total") >= 1
        assert page.value("quire_requests_ended_total", reason="disconnect") == 1
        assert page.value("quire_requests_ended_total", reason="error") == 1
        assert page.value("quire_rejected_total", reason="failed") == 1
        _until(lambda: scrape(server).value("quire_loop_lag_seconds_count") > 5)


def test_metrics_need_a_key_like_everything_else() -> None:
    with served(access=Access(port=0, keys=(KEY,))) as server:
        assert get(f"{server.url}/metrics").status_code == 401
        answer = get(f"{server.url}/metrics", headers={"authorization": f"Bearer {KEY}"})
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


@pytest.fixture(scope="module")
def named() -> Any:
    with served(names=("real",)) as server:
        yield server


async def _ask_at_random(server: Served, draw: random.Random) -> int:
    """Sends one request with a random method, path and model right to the application; returns the status."""
    word = "".join(draw.choices(string.ascii_letters + "/{}.%", k=draw.randint(1, 12)))
    is_model = draw.random() < 0.3
    body = json.dumps({"model": word, "prompt": "a"}).encode()
    path = "/v1/completions" if is_model else draw.choice([f"/{word}", f"/v1/models/{word}", "/health", "/metrics/"])
    scope = {
        "type": "http",
        "method": "POST" if is_model else draw.choice(["GET", "POST", word.upper(), word]),
        "path": path,
        "query_string": word.encode(),
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
    }
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        statuses.append(message.get("status", 0))

    await server.server.config.app(scope, receive, send)
    return statuses[0]


def test_random_methods_paths_and_models_add_no_series(named: Served) -> None:
    draw = random.Random(20)

    async def ask_all() -> list[int]:
        return [await _ask_at_random(named, draw) for _ in range(10_000)]

    before = scrape(named)
    statuses = asyncio.run(ask_all())
    after = scrape(named)
    assert set(statuses) <= {200, 400, 404, 405}
    assert set(after.values) == set(before.values)
    counted = sum(value for (name, _), value in after.values.items() if name == "quire_http_responses_total")
    assert counted >= 10_000


def test_histograms_are_whole(named: Served) -> None:
    families = list(text_string_to_metric_families(get(f"{named.url}/metrics").text))
    assert all(family.documentation and family.name.startswith("quire_") for family in families)
    for family in families:
        if family.type == "histogram":
            buckets = [sample.value for sample in family.samples if sample.name.endswith("_bucket")]
            (count,) = (sample.value for sample in family.samples if sample.name.endswith("_count"))
            assert buckets == sorted(buckets)
            assert buckets[-1] == count
