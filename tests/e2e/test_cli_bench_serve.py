"""`quire bench serve` as a user runs it: over a server of its own, and over one that runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from quire.cli.bench_serve import goal_of
from quire.cli.main import cli
from quire.errors import ConfigError
from support.served import served

SHORT = ("--num-requests", "4", "--prompt-tokens", "24", "--shared-tokens", "32", "--output-tokens", "4")


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ("bench", "serve", *arguments))


def test_a_server_of_its_own_is_started_measured_and_ended(capfd: pytest.CaptureFixture[str]) -> None:
    result = bench(*SHORT, "--concurrency", "2", "--threads", "1", "--kv-memory", "64MiB", "--goodput", "ttft:60s")
    assert result.exit_code == 0, result.output
    assert "answered" in result.stdout
    assert "goodput" in result.stdout
    report = json.loads(result.stdout.splitlines()[-1])
    assert (report["bench"], report["num_answered"], report["errors"]) == ("serve", 4, {})
    assert report["good_share"] == 1
    assert report["mean_output_tokens"] == 4
    assert {"machine", "versions", "latencies"} <= set(report)
    assert (report["settings"]["model"], report["settings"]["threads"]) == ("bundled", 1)
    assert "request" not in capfd.readouterr().err  # the server writes no line for each


@pytest.mark.parametrize(("api", "workload"), [("chat", "agent"), ("completions", "shared-prefix")])
def test_a_server_that_runs_is_measured_in_an_open_loop(api: str, workload: str) -> None:
    with served() as running:
        load = ("--mode", "open", "--rate", "50", "--api", api, "--workload", workload, "--turns", "2", "--seed", "5", "--json")
        result = bench("--url", f"{running.url}/v1", *SHORT, *load)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["num_answered"], report["errors"]) == (4, {})
    assert (report["settings"]["seed"], report["settings"]["workload"]) == (5, workload)
    assert "model" not in report["settings"]
    if workload == "agent":
        assert report["cached_share"] > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--mode", "open", "--concurrency", "2"), "no number of clients"),
        (("--rate", "2"), "has no rate"),
        (("--url", "http://127.0.0.1:1", "--threads", "1"), "runs already"),
        (("--model-name", "m"), "neither a key nor a name"),
        (("--url", "nowhere"), "not the URL of a server"),
        (("--url", "http://127.0.0.1:1"), "no connection"),
        (("--url", "http://127.0.0.1:1", "--api-key-file", "missing"), "cannot be read"),
        (("--goodput", "fast"), "goal is not understood"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: tuple[str, ...], words: str) -> None:
    result = bench(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr


def test_a_server_that_does_not_start_is_one_error(tmp_path: Path) -> None:
    result = bench("-m", str(tmp_path))
    assert result.exit_code == 1
    assert "the server did not start" in result.stderr


def test_goals_are_limits_of_latencies() -> None:
    goal = goal_of("ttft:1.5s,itl:100ms")
    assert (goal.ttft_s, goal.itl_s, goal.tpot_s, goal.e2e_s) == (1.5, 0.1, None, None)
    assert not goal_of(None).is_set
    for text in ("ttft", "ttft:1", "ttft:1s,ttft:2s", "speed:1s", ""):
        with pytest.raises(ConfigError, match="not understood"):
            goal_of(text)
