"""`quire verify` and `quire bench` on a tiny checkpoint, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from quire.cli.main import cli
from quire.executors.native import available_isas

pytestmark = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def test_verify_finds_every_promise_kept(tiny_model: Path) -> None:
    result = invoke("verify", "-m", str(tiny_model), "--json", "--kv-memory", "64MiB")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["has_passed"]
    assert {check["promise"] for check in report["checks"]} == {1, 2, 3, 4, 5}


def test_verify_prints_a_table(tiny_model: Path) -> None:
    result = invoke("verify", "-m", str(tiny_model), "--dtype", "bfloat16", "--kv-memory", "64MiB")
    assert result.exit_code == 0, result.output
    assert "preempted = undisturbed" in result.stdout
    assert "0 broken" in result.stdout


def test_verify_reports_a_broken_promise(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An executor whose bits depend on the number of rows is found out."""
    from quire.executors.native import NativeExecutor

    honest = NativeExecutor.run
    monkeypatch.setattr(
        NativeExecutor, "run", lambda self, batch: honest(self, batch) + (1e-6 if len(batch.token_ids) > 1 else 0)
    )
    result = invoke("verify", "-m", str(tiny_model), "--json", "--kv-memory", "64MiB")
    assert result.exit_code == 1
    broken = {check["name"] for check in json.loads(result.stdout)["checks"] if not check["has_passed"]}
    assert "chunked = whole" in broken


@pytest.mark.parametrize(
    "options",
    [
        ("--dtype", "float32", "--kv-format", "bfloat16"),
        ("--dtype", "bfloat16", "--kv-format", "float32"),
        ("--block-size", "128", "--threads", "1"),
    ],
)
def test_verify_holds_in_every_configuration(tiny_model: Path, options: tuple[str, ...]) -> None:
    result = invoke("verify", "-m", str(tiny_model), "--kv-memory", "64MiB", *options)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--kv-memory", "400KiB"), "too small to verify"),
        (("--max-context", "70"), "too short to verify"),
        (("--executor", "reference"), "reference executor is accurate but does not promise equal bits"),
        (("--executor", "torch"), "torch executor is accurate but does not promise equal bits"),
        (("--kv-cache", "off"), "verify varies"),
        (("--max-num-seqs", "1"), "verify varies"),
    ],
)
def test_verify_refuses_what_it_cannot_check(tiny_model: Path, options: tuple[str, ...], words: str) -> None:
    result = invoke("verify", "-m", str(tiny_model), *options)
    assert result.exit_code == 2
    assert words in result.stderr


def test_bench_beyond_the_context_is_refused(tiny_model: Path) -> None:
    result = invoke("bench", "prefill", "-m", str(tiny_model), "--depth", "3000")
    assert result.exit_code == 2
    assert "Lower --depth" in result.stderr


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_bench_ends_with_a_json_line(tiny_model: Path, phase: str) -> None:
    result = invoke("bench", phase, "-m", str(tiny_model), "--repeat", "2", "--depth", "20", "--threads", "1")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["before"]["bandwidth"] > 0
    assert all(speed["tokens_per_second"] > 0 and speed["share_of_flops"] > 0 for speed in report["speeds"])
    assert "peak before" in result.stdout


def test_bench_measures_a_shape_without_weights(tmp_path: Path, tiny_model: Path) -> None:
    config = tmp_path / "shape.json"
    config.write_bytes((tiny_model / "config.json").read_bytes())
    result = invoke("bench", "prefill", "--config", str(config), "--repeat", "1", "--depth", "8", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["weights"] == "bfloat16"
