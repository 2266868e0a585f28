"""Load and its report, over a server that answers as a test says."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from quire.bench.serve import Arrivals, ServeWork, measure_serving
from quire.bench.serve_apis import APIS, Ask, Counts
from quire.bench.serve_http import target_of
from quire.bench.serve_report import Goal, ServeReport, latency_of, report_of
from quire.bench.serve_request import Outcome, measured
from quire.bench.serve_workloads import Conversations, Lengths, Words, Workload
from quire.errors import ConfigError, ExecutorError
from support.scripted_server import Answer, ScriptedServer, scripted_server, stream, whole

WORD = {"choices": [{"delta": {"content": "a"}}]}
TEN = Arrivals(concurrency=2, num_requests=10)


def told(fields: dict[str, Any], *, cached: int = 0) -> list[bytes]:
    """Answers a chat: a word of the prompt is two tokens, and so are the template's."""
    num_prompt = 2 * sum(len(message["content"].split()) for message in fields["messages"]) + 2
    usage = {"prompt_tokens": num_prompt, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": cached}}
    deltas = [{"choices": [{"delta": {"content": text}}]} for text in ("a ", "b ", "c")]
    return stream(
        {"choices": [{"delta": {"role": "assistant", "content": ""}}]}, *deltas, {"choices": [], "usage": usage}, "[DONE]"
    )


def load(work: ServeWork, answer: Answer = told, pause_s: float = 0.0) -> tuple[ServeReport, ScriptedServer]:
    async def run() -> tuple[ServeReport, ScriptedServer]:
        async with scripted_server(answer, pause_s) as server:
            return await measure_serving(target_of(server.url), work), server

    return asyncio.run(run())


def outcome(**facts: Any) -> Outcome:
    return Outcome(**{"intended_s": 10.0, "sent_s": 10.0, "ended_s": 14.0, "arrivals_s": (12.0, 12.5, 14.0), **facts})


def test_a_closed_loop_sends_the_number_of_requests_and_tells_what_the_server_counts() -> None:
    shown: list[tuple[str, int, int]] = []

    async def run() -> ServeReport:
        async with scripted_server(lambda fields: told(fields, cached=11)) as server:
            work = ServeWork(arrivals=TEN, lengths=Lengths(num_prompt=42), seed=1)
            return await measure_serving(target_of(server.url), work, lambda *what: shown.append(what))

    report = asyncio.run(run())
    assert (report.num_requests, report.num_answered, report.errors) == (10, 10, {})
    assert (report.mean_prompt_tokens, report.mean_output_tokens) == (44, 3)  # 21 words of two tokens, and two more
    assert report.cached_share == 11 / 44
    assert [each.name for each in report.latencies] == ["TTFT", "ITL", "TPOT", "E2E", "sent late"]
    assert [each.num for each in report.latencies] == [10, 20, 10, 10, 10]
    assert shown[-1] == ("Requests answered", 10, 10)


def test_in_an_open_loop_a_slow_server_makes_requests_wait_and_the_report_says_so() -> None:
    work = ServeWork(arrivals=Arrivals(rate=500, num_requests=8), seed=1)
    report, _ = load(work, pause_s=0.02)
    ttft = next(each for each in report.latencies if each.name == "TTFT")
    assert ttft.max > 4 * 0.02  # the last one waited for those before it


def test_arrivals_end_with_the_duration_and_answers_are_awaited() -> None:
    report, server = load(ServeWork(arrivals=Arrivals(rate=200, duration_s=0.1), seed=3))
    assert report.num_answered == report.num_requests == len(server.asked) - 2  # two measured the words
    assert report.num_requests > 1


def test_prompts_share_what_they_should_and_nothing_else() -> None:
    lengths = Lengths(num_prompt=20, num_shared=60)
    _, server = load(ServeWork(arrivals=TEN, workload=Workload.SHARED_PREFIX, lengths=lengths))
    systems = {asked["messages"][0]["content"] for asked in server.asked[2:]}
    users = {asked["messages"][1]["content"] for asked in server.asked[2:]}
    assert (len(systems), len(users)) == (1, 10)
    assert len(systems.pop().split()) == 30
    _, server = load(ServeWork(arrivals=TEN, lengths=lengths))
    assert all(len(asked["messages"]) == 1 for asked in server.asked)


def test_an_agents_history_grows_by_the_servers_own_answers() -> None:
    lengths = Lengths(num_prompt=10, num_shared=30, num_turns=3)
    work = ServeWork(arrivals=Arrivals(concurrency=1, num_requests=6), workload=Workload.AGENT, lengths=lengths)
    _, server = load(work)
    first, second, third = (asked["messages"] for asked in server.asked[2:5])
    assert [message["role"] for message in third] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert third[:4] == second
    assert second[:2] == first
    assert second[2]["content"] == "a b c"
    assert len(server.asked) == 2 + 6


def test_the_same_seed_asks_the_same() -> None:
    asked = [load(ServeWork(arrivals=Arrivals(concurrency=1, num_requests=3), seed=seed))[1].asked for seed in (7, 7, 8)]
    assert asked[0] == asked[1] != asked[2]


@pytest.mark.parametrize(
    ("pieces", "kind"),
    [
        (whole("429 Too Many Requests", {"error": {"code": "overloaded"}}), "HTTP 429 overloaded"),
        (stream(WORD, {"error": {"code": "engine_error"}}, "[DONE]"), "in the stream: engine_error"),
        (stream(WORD), "a stream without its end"),
        (stream(WORD)[:-1], "closed before the end"),
        (stream("{"), "an event that is not of this API"),
        ([b"SMTP ready\r\n\r\n"], "not HTTP"),
        ([], "closed before the end"),
    ],
)
def test_an_error_is_counted_by_its_kind(pieces: list[bytes], kind: str) -> None:
    calls = iter(range(100))
    report, _ = load(ServeWork(arrivals=TEN), lambda fields: pieces if next(calls) in (4, 7) else told(fields))
    assert report.errors == {kind: 2}
    assert (report.num_requests, report.num_answered) == (10, 8)


def test_a_server_that_is_not_there_or_answers_nothing_is_an_error() -> None:
    work = ServeWork(arrivals=TEN)
    with pytest.raises(ConfigError, match=r"list its models .*no connection"):
        asyncio.run(measure_serving(target_of("http://127.0.0.1:1"), work))
    with pytest.raises(ConfigError, match=r"does not answer .*HTTP 404"):
        load(work, lambda _: whole("404 Not Found", {}))
    calls = iter(range(100))
    with pytest.raises(ExecutorError, match=r"no request was answered .*HTTP 500"):
        load(work, lambda fields: told(fields) if next(calls) < 2 else whole("500 Internal Server Error", {}))


def test_one_request_is_measured_and_its_text_kept() -> None:
    async def run() -> Outcome:
        async with scripted_server(told) as server:
            ask = Ask(model="m", messages=[{"role": "user", "content": "Hi"}], max_tokens=3)
            return await measured(target_of(server.url), APIS["chat"], ask)

    found = asyncio.run(run())
    assert (found.text, found.error) == ("a b c", None)
    assert found.sent_s < found.arrivals_s[0] < found.arrivals_s[-1] < found.ended_s
    assert found.counts == Counts(num_prompt=4, num_cached=0, num_output=3)


def test_times_count_from_the_intended_moment() -> None:
    late = outcome(sent_s=11.0, counts=Counts(num_output=5))
    assert (late.ttft_s, late.e2e_s, late.gaps_s, late.tpot_s) == (2.0, 4.0, [0.5, 1.5], 0.5)
    assert outcome(arrivals_s=(12.0,), counts=Counts(num_output=1)).tpot_s is None


@pytest.mark.parametrize(
    ("goal", "is_met"),
    [
        (Goal(ttft_s=2.0, itl_s=1.5), True),
        (Goal(ttft_s=1.9), False),
        (Goal(itl_s=1.4), False),
        (Goal(tpot_s=0.9), False),
        (Goal(e2e_s=3.9), False),
    ],
)
def test_a_request_is_good_when_all_of_it_was_in_time(goal: Goal, is_met: bool) -> None:
    report = report_of([outcome(), outcome(error="timeout")], goal)
    assert report.goodput == (0.25 if is_met else 0)
    assert report.good_share == (0.5 if is_met else 0)


def test_a_report_without_a_goal_or_counts_says_that_it_does_not_know() -> None:
    report = report_of([outcome()], Goal())
    assert (report.goodput, report.good_share, report.cached_share) == (None, None, None)
    assert report.mean_output_tokens == 3  # pieces, where no tokens are counted


def test_percentiles_are_of_all_values() -> None:
    found = latency_of("ITL", [value / 100 for value in range(101)])
    assert (found.p50, found.p90, found.p99, found.max, found.num) == pytest.approx((0.5, 0.9, 0.99, 1.0, 101))


def test_words_are_as_long_as_their_tokens_say() -> None:
    assert len(Words(1, tokens_per_word=2.5).of_tokens(100).split()) == 40
    assert len(Words(1, tokens_per_word=9).of_tokens(1).split()) == 1
    made = Conversations(Workload.AGENT, Lengths(num_turns=5), Words(1))
    assert len(made.next()) == 5
    assert json.dumps(list(made.next().turns())) != json.dumps(list(made.next().turns()))
