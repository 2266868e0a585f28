"""The executor's probe of how to prefetch: over its own weights, in every format and on every instruction set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quire.config import DType, KVFormat, Quantize, WeightFormat
from quire.executors import prefetch
from quire.executors.native import NativeExecutor, available_isas, isa_in_use, load_core
from quire.executors.options import ExecutorOptions
from quire.executors.protocol import kv_layout
from quire.models.group_format import GroupFormat, Offset, ScaleType
from quire.models.spec import ModelSpec
from quire.models.weights import Weights
from support.configs import spec_of
from support.group_tensors import group_weights
from support.weights import random_weights

pytestmark = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")

Reads = list[tuple[int, prefetch.Prefetch, bool]]
EVERY_READ = [(region, pattern, True) for pattern in prefetch.Prefetch for region in range(8)]


@pytest.fixture(autouse=True)
def _nothing_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("QUIRE_PREFETCH", raising=False)


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return spec_of("llama")


def build(spec: ModelSpec, loaded: Weights, **changes: Any) -> NativeExecutor:
    layout = kv_layout(spec, 32, KVFormat.FLOAT32)
    return NativeExecutor(spec, loaded, ExecutorOptions(layout=layout, num_blocks=1, dtype=DType.FLOAT32, **changes))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Regions as small as a panel, patterns, and whether they took time: what is read by probes, which find `NEAR` fastest."""
    seen: Reads = []

    def fastest(read: prefetch.TimedRead, num_regions: int) -> prefetch.Prefetch:
        for pattern in prefetch.Prefetch:
            seen.extend((region, pattern, read(region, pattern) > 0) for region in range(num_regions))
        return prefetch.Prefetch.NEAR

    monkeypatch.setattr(prefetch, "MIN_WEIGHT_BYTES", 0)
    monkeypatch.setattr(prefetch, "NUM_REGIONS", 8)
    monkeypatch.setattr(prefetch, "fastest", fastest)
    return seen


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("quantize", Quantize)
def test_weights_are_probed_where_they_lie(
    spec: ModelSpec, quantize: Quantize, isa: str, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUIRE_ISA", isa)
    executor = build(spec, random_weights(spec), quantize=quantize, threads=2)
    assert reads == EVERY_READ
    assert str(executor.prefetch) == "near (probed)"
    assert executor._decoder.prefetch == load_core().Prefetch.NEAR


def test_stored_weights_are_probed_by_the_format_of_most(spec: ModelSpec, reads: Reads) -> None:
    few, most = (GroupFormat(bits, 32, ScaleType.FLOAT16, Offset.CENTER) for bits in (8, 4))
    executor = build(spec, group_weights(spec, (few, most, most)), weights=WeightFormat.STORED)
    assert reads == EVERY_READ
    assert prefetch.all_remembered(isa_in_use(), 1) == {most.description: prefetch.Prefetch.NEAR}
    assert str(build(spec, group_weights(spec, (most,)), weights=WeightFormat.STORED).prefetch) == "near (remembered)"
    assert str(build(spec, group_weights(spec, (few,)), weights=WeightFormat.STORED).prefetch) == "near (probed)"
    assert executor._decoder.prefetch == load_core().Prefetch.NEAR


def test_small_weights_are_not_probed(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "fastest", lambda *_: pytest.fail("probed"))
    assert str(build(spec, random_weights(spec)).prefetch) == "both (default)"
