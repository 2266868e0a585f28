"""`quire bench kv-cache` as a user runs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from quire.bench import kv_cache
from quire.bench.cost import chunk_work
from quire.cli.main import cli
from quire.executors.native import available_isas

pytestmark = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")


@pytest.fixture(scope="module")
def shape(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copy(tiny_model / "config.json", tmp_path_factory.mktemp("shape") / "shape.json"))


def quire(shape: Path, *arguments: str | Path) -> Result:
    common = ("--config", str(shape), "--threads", "1", "--tokens", "128")
    return CliRunner().invoke(cli, ["bench", "kv-cache", *common, *map(str, arguments)])


def test_tables_json_and_charts(shape: Path, tmp_path: Path) -> None:
    charts = (tmp_path / "chart.png", tmp_path / "chart.svg")
    result = quire(shape, "--chart", charts[0], "--chart", charts[1])
    assert result.exit_code == 0, result.output
    for words in ("O(dim^2 + i dim)", "O(i dim^2 + i^2 dim)", "O(T dim^2 + T^2 dim)", "O(T^2 dim^2 + T^3 dim)"):
        assert words in result.stdout
    assert "equal the formulas in every step" in result.stdout
    assert "bit by bit" in result.stdout
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["bench"] == "kv-cache"
    assert report["equals_formulas"] is report["has_equal_bits"] is True
    assert [each["tokens"] for each in report["totals"]] == [16, 32, 64, 128]
    counts = report["totals"][-1]["recomputed"]["counts"]
    assert set(counts) == {"projections", "scores", "mixing", "head"}
    assert counts["scores"] == 3 * 4 * 12 * 128 * 129 * 130 // 6
    assert {"machine", "versions", "settings", "coefficients", "exponents_cached", "exponents_recomputed"} <= set(report)
    assert all(chart.stat().st_size > 1000 for chart in charts)


def test_a_chart_that_cannot_be_written_comes_after_the_tables(shape: Path, tmp_path: Path) -> None:
    result = quire(shape, "--chart", tmp_path / "nowhere" / "chart.png")
    assert result.exit_code == 2
    assert json.loads(result.stdout.splitlines()[-1])["bench"] == "kv-cache"
    assert "T tokens in all" in result.stdout
    assert "the chart cannot be written (given: " in result.stderr
    assert isinstance(result.exception, SystemExit)


def test_a_chart_of_another_kind_is_refused_before_anything_is_measured(shape: Path, tmp_path: Path) -> None:
    result = quire(shape, "--chart", tmp_path / "chart.pdf")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "png, svg" in result.stderr


@pytest.mark.parametrize("tokens", ["127", "-1", "x", "513"])
def test_too_few_or_too_many_tokens_are_refused(shape: Path, tokens: str) -> None:
    assert quire(shape, "--tokens", tokens).exit_code == 2


def test_counts_that_differ_are_a_failure(shape: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_cache, "chunk_work", lambda spec, start, stop, num: chunk_work(spec, start, stop + 1, num))
    result = quire(shape)
    assert result.exit_code == 1
    assert "DIFFER from the formulas" in result.stdout
