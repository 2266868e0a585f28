"""Shapes, threads, measurements, single kernels and sampling of the core against callers that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from quire.executors.native import _shape_of
from quire.sample.buckets import LEAST
from support.core_world import SPEC, empty_decoder, floats, misaligned

core: Any = pytest.importorskip("quire.native._core", reason="the native core is not compiled here")
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "changes",
    [
        *[
            {field: value}
            for field in ("hidden_size", "ffn_size", "vocab_size", "max_context")
            for value in (0, -1, 2**24 + 2, 2**62)
        ],
        *[{field: value} for field in ("num_heads", "num_kv_heads", "head_dim") for value in (0, -8, 2**24 + 2, 2**62)],
        {"head_dim": 7},
        {"head_dim": 2**23},
        {"num_kv_heads": 3},
        {"layers": []},
        {"ropes": []},
        {"has_learned_positions": True},
        {"norm_eps": float("nan")},
        {"norm_eps": -1.0},
        {"attention_scale": float("inf")},
        {"logit_softcap": -1.0},
    ],
    ids=str,
)
def test_impossible_shapes_are_refused(changes: dict[str, Any]) -> None:
    shape = _shape_of(core, SPEC)
    for field, value in changes.items():
        setattr(shape, field, value)
    with pytest.raises(ValueError, match=r"size|head|layer|position|shape|negative"):
        core.Decoder(shape, core.WeightFormat.F32, "", 1)


def test_layers_and_rotations_out_of_range_are_refused() -> None:
    for field, value in (("rope", 1), ("rope", -1), ("window", 0), ("window", -(2**63))):
        shape = _shape_of(core, SPEC)
        layers = shape.layers
        setattr(layers[1], field, value)
        shape.layers = layers
        with pytest.raises(ValueError, match="a layer"):
            core.Decoder(shape, core.WeightFormat.F32, "", 1)


@pytest.mark.parametrize("threads", [0, -1, -(2**31), 4097, 2**31 - 1])
def test_impossible_numbers_of_threads_are_refused(threads: int) -> None:
    with pytest.raises(ValueError, match="number of threads"):
        empty_decoder(threads=threads)
    with pytest.raises(ValueError, match="number of threads"):
        core.measure_bandwidth("", threads, 1, 1)
    with pytest.raises(ValueError, match="number of threads"):
        core.measure_flops("", threads, core.WeightFormat.F32, 1)


def test_measurements_of_nothing_are_refused() -> None:
    for num_bytes, rounds in ((0, 1), (-1, 1), (1, 0), (1, -1)):
        with pytest.raises(ValueError, match="must be positive"):
            core.measure_bandwidth("", 1, num_bytes, rounds)
    with pytest.raises(ValueError, match="must be positive"):
        core.measure_flops("", 1, core.WeightFormat.F32, 0)
    with pytest.raises((MemoryError, OverflowError)):
        core.measure_bandwidth("", 1, 2**63 - 1, 1)


def test_kernels_alone_refuse_arrays_that_do_not_fit() -> None:
    weight, a, out = floats(3, 8), floats(2, 8), floats(2, 3)
    f32 = core.WeightFormat.F32
    calls: list[Callable[[], object]] = [
        lambda: core.multiply("", f32, weight, floats(2, 7), out),
        lambda: core.multiply("", f32, weight, a, floats(3, 2)),
        lambda: core.multiply("", f32, floats(0, 8), a, floats(2, 0)),
        lambda: core.multiply("", f32, floats(3, 0), floats(2, 0), out),
        lambda: core.multiply("", f32, misaligned(weight), a, out),
        lambda: core.multiply("", f32, weight, misaligned(a), out),
        lambda: core.multiply("", f32, weight, a, misaligned(out)),
        lambda: core.multiply("mmx", f32, weight, a, out),
        lambda: core.packed_values("", f32, weight, floats(3, 7)),
        lambda: core.packed_values("", f32, weight, misaligned(weight)),
        lambda: core.packed_values("", f32, floats(0, 8), floats(0, 8)),
        lambda: core.activate("", core.Activation.RELU, misaligned(floats(5))),
        lambda: core.softcap("", misaligned(floats(5)), 1.0),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"out|misaligned|without|instruction set"):
            call()


@pytest.mark.parametrize("isa", core.available_isas())
@pytest.mark.parametrize("size", [1, 5, 64, 200, 4097])
def test_rows_without_an_order_are_refused(isa: str, size: int) -> None:
    for spoiled in {0, size // 2, size - 1}:
        row = np.random.default_rng(size).normal(size=size).astype(np.float32)
        row[spoiled] = NAN
        calls: list[Callable[[], object]] = [
            lambda row=row: core.draw(isa, row, 1.0, None, 1.0, LEAST, 0.5),  # type: ignore[misc]
            lambda row=row: core.draw(isa, row.astype(np.float64), 1.0, 3, 0.9, LEAST, 0.5),  # type: ignore[misc]
            lambda row=row: core.largest_ids(isa, row, 2),  # type: ignore[misc]
            lambda row=row: core.exp_sum(isa, row),  # type: ignore[misc]
            lambda row=row: core.num_before(row, 0),  # type: ignore[misc]
        ]
        for call in calls:
            with pytest.raises(ValueError, match="NaN"):
                call()
    for infinite in (np.full(size, -INF, np.float32), np.full(size, INF, np.float32)):
        with pytest.raises(ValueError, match="infinite"):
            core.draw(isa, infinite, 1.0, None, 1.0, LEAST, 0.5)
        with pytest.raises(ValueError, match="infinite"):
            core.exp_sum(isa, infinite)


@pytest.mark.parametrize("isa", core.available_isas())
def test_infinite_logits_have_an_order(isa: str) -> None:
    row = np.zeros(200, np.float32)
    row[[3, 70]], row[[5, 140]] = INF, -INF
    assert core.largest_ids(isa, row, 3) == [3, 70, 0]
    huge = np.where(np.arange(200) % 2, np.float32(3e38), np.float32(-3e38)).astype(np.float32)
    assert core.draw(isa, huge, 1.0, None, 1.0, LEAST, 0.0) == 1


@pytest.mark.parametrize(
    ("place", "values"),
    [
        (0, [0.0, -1.0, NAN, INF, -INF]),
        (1, [0, -1, -(2**63)]),
        (2, [0.0, -0.5, 1.5, NAN, INF]),
        (3, [1e-9, 1.0, NAN, INF]),
        (4, [1.0, 2.0, -1e-300, NAN, INF, -INF]),
    ],
    ids=["sharpness", "top_k", "top_p", "least", "noise"],
)
def test_impossible_methods_of_drawing_are_refused(place: int, values: list[float]) -> None:
    for value in values:
        method: list[Any] = [1.0, 5, 0.9, LEAST, 0.5]
        method[place] = value
        with pytest.raises(ValueError, match="draw"):
            core.draw("", floats(10), *method)


def test_misaligned_rows_are_refused() -> None:
    row = misaligned(floats(10))
    calls: list[Callable[[], object]] = [
        lambda: core.best_id("", row),
        lambda: core.draw("", row, 1.0, None, 1.0, LEAST, 0.5),
        lambda: core.draw("", misaligned(np.zeros(10)), 1.0, None, 1.0, LEAST, 0.5),
        lambda: core.largest_ids("", row, 1),
        lambda: core.exp_sum("", row),
        lambda: core.num_before(row, 0),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="misaligned"):
            call()
