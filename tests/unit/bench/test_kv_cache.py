"""What the cache saves: exact counts for every kind of layer, equal bits, and the powers that the notes derive."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quire.bench.kv_cache import KVCacheReport, KVCacheWork, coefficients_of, fitted_exponent, measure_kv_cache
from quire.bench.kv_cache_chart import draw_chart
from quire.bench.random_model import random_checkpoint
from quire.config import ExecutorKind
from quire.errors import ConfigError
from quire.executors.native import available_isas
from quire.models.checkpoint import Checkpoint
from support.configs import CONFIGS

pytestmark = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")
TOKENS = 64
PNG = b"\x89PNG\r\n\x1a\n"


def measured(checkpoint: Checkpoint, tokens: int = TOKENS, repeat: int = 1) -> KVCacheReport:
    return measure_kv_cache(checkpoint, KVCacheWork(num_tokens=tokens, repeat=repeat), {"threads": 1})


@pytest.fixture(scope="module")
def report(checkpoint: Checkpoint) -> KVCacheReport:
    return measured(checkpoint, 256)


@pytest.mark.parametrize("family", CONFIGS)
def test_counts_equal_the_formulas_in_every_family(family: str, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIGS[family]))
    found = measured(random_checkpoint(config))
    assert found.equals_formulas
    assert found.has_equal_bits


def test_the_totals_are_those_of_the_notes(report: KVCacheReport) -> None:
    """With h query heads of d elements in l layers: l h d (T^2 + T) for attention with a cache, l h d (T^3 + ...) / 3 without."""
    model = report.coefficients
    assert model.pair == 2 * 2 * 4 * 16
    for pair in report.totals:
        t = pair.tokens
        assert pair.cached.counts.projections == model.token * t
        assert pair.recomputed.counts.projections == model.token * t * (t + 1) // 2
        assert pair.cached.counts.attention == model.pair * t * (t + 1) // 2
        assert pair.recomputed.counts.attention == model.pair * t * (t + 1) * (t + 2) // 6
        assert pair.cached.counts.head == pair.recomputed.counts.head == model.logits * t
    for pair in report.steps:
        i = pair.tokens
        assert pair.cached.counts.projections == model.token
        assert pair.cached.counts.attention == model.pair * i
        assert pair.recomputed.counts.projections == model.token * i
        assert pair.recomputed.counts.attention == model.pair * i * (i + 1) // 2


def test_attention_grows_with_the_square_and_without_a_cache_with_the_cube(report: KVCacheReport) -> None:
    assert report.exponents_cached.attention == pytest.approx(2, abs=0.1)
    assert report.exponents_recomputed.attention == pytest.approx(3, abs=0.1)
    assert report.exponents_cached.projections == pytest.approx(1)
    assert report.exponents_recomputed.projections == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("kv_format", [each.value for each in ExecutorKind.NATIVE.kv_formats])
def test_both_runs_have_equal_bits_in_every_kv_format(checkpoint: Checkpoint, kv_format: str) -> None:
    found = measure_kv_cache(checkpoint, KVCacheWork(num_tokens=100), {"threads": 1, "kv_format": kv_format})
    assert (found.kv_format, found.equals_formulas, found.has_equal_bits) == (kv_format, True, True)


def test_medians_are_of_runs_that_computed_the_same(checkpoint: Checkpoint) -> None:
    found = measured(checkpoint, repeat=2)
    assert found.equals_formulas
    assert [pair.tokens for pair in found.totals] == [8, 16, 32, 64]
    assert all(pair.cached.seconds > 0 for pair in found.totals)


def test_an_exponent_is_the_slope_on_logarithmic_axes() -> None:
    assert fitted_exponent({tokens: 7 * tokens**1.5 for tokens in (3, 10, 44, 200)}) == pytest.approx(1.5)


def test_windows_are_named(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIGS["gemma3_text"]))
    assert coefficients_of(random_checkpoint(config).spec).windows == (32,)


def test_more_tokens_than_the_context_are_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(ConfigError, match="limit: 1024 tokens"):
        measured(checkpoint, 1025)


@pytest.mark.parametrize(("suffix", "start"), [(".png", PNG), (".svg", b"<?xml"), (".PNG", PNG)])
def test_a_chart_is_drawn(report: KVCacheReport, tmp_path: Path, suffix: str, start: bytes) -> None:
    path = tmp_path / f"chart{suffix}"
    path.write_text("old")
    draw_chart(report, path)
    assert path.read_bytes().startswith(start)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_chart_of_another_kind_or_place_is_refused(report: KVCacheReport, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="png, svg"):
        draw_chart(report, tmp_path / "chart.jpg")
    with pytest.raises(ConfigError, match="cannot be written"):
        draw_chart(report, tmp_path / "nowhere" / "chart.png")
    with pytest.raises(ConfigError, match="cannot be written"):
        draw_chart(report, Path("/proc/chart.svg"))
