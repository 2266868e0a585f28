"""Shapes, threads, measurements, single kernels and sampling of the core against callers that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from quire.executors.native_shape import shape_of
from quire.sample.buckets import LEAST
from support.core_world import SPEC, empty_decoder, floats, misaligned

core: Any = pytest.importorskip("quire.native._core", reason="the native core is not compiled here")
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "changes",
    [
        *[{field: value} for field in ("hidden_size", "vocab_size", "max_context") for value in (0, -1, 2**24 + 2, 2**62)],
        *[{field: value} for field in ("num_heads", "num_kv_heads", "head_dim") for value in (0, -8, 2**24 + 2, 2**62)],
        {"head_dim": 7},
        {"head_dim": 2**23},
        {"num_kv_heads": 3},
        {"layers": []},
        {"ropes": []},
        {"norm_eps": float("nan")},
        {"norm_eps": -1.0},
        {"attention_scale": float("inf")},
        {"logit_softcap": -1.0},
    ],
    ids=str,
)
def test_impossible_shapes_are_refused(changes: dict[str, Any]) -> None:
    shape = shape_of(core, SPEC)
    for field, value in changes.items():
        setattr(shape, field, value)
    with pytest.raises(ValueError, match=r"size|head|layer|position|shape|negative"):
        core.Decoder(shape, core.PanelFormat(), {}, "", 1)


def test_layers_and_rotations_out_of_range_are_refused() -> None:
    for field, value in (("rope", 1), ("rope", -1), ("window", 0), ("window", -(2**63))):
        shape = shape_of(core, SPEC)
        layers = shape.layers
        setattr(layers[1], field, value)
        shape.layers = layers
        with pytest.raises(ValueError, match="a layer"):
            core.Decoder(shape, core.PanelFormat(), {}, "", 1)


@pytest.mark.parametrize("size", [0, -1, 2**24 + 2, 2**62])
def test_feed_forwards_of_impossible_size_are_refused(size: int) -> None:
    shape = shape_of(core, SPEC)
    layers = shape.layers
    layers[1].ffn.size = size
    shape.layers = layers
    with pytest.raises(ValueError, match="feed-forward"):
        core.Decoder(shape, core.PanelFormat(), {}, "", 1)


@pytest.mark.parametrize("threads", [0, -1, -(2**31), 4097, 2**31 - 1])
def test_impossible_numbers_of_threads_are_refused(threads: int) -> None:
    with pytest.raises(ValueError, match="number of threads"):
        empty_decoder(threads=threads)
    with pytest.raises(ValueError, match="number of threads"):
        core.measure_reads("", threads, 1, 1)
    with pytest.raises(ValueError, match="number of threads"):
        core.measure_flops("", threads, core.PanelFormat(core.Encoding.F32), 1)


def test_measurements_of_nothing_are_refused() -> None:
    for num_bytes, rounds in ((0, 1), (-1, 1), (1, 0), (1, -1)):
        with pytest.raises(ValueError, match="must be positive"):
            core.measure_reads("", 1, num_bytes, rounds)
    with pytest.raises(ValueError, match="must be positive"):
        core.measure_flops("", 1, core.PanelFormat(core.Encoding.F32), 0)
    with pytest.raises((MemoryError, OverflowError)):
        core.measure_reads("", 1, 2**63 - 1, 1)


def test_regions_that_are_not_there_are_refused() -> None:
    decoder = empty_decoder()
    with pytest.raises(ValueError, match="no such region"):
        decoder.read_seconds(0, core.Prefetch.NONE)
    for count, num_bytes in ((0, 1), (-1, 1), (1, 0), (2**16 + 1, 1)):
        with pytest.raises(ValueError, match="there must be regions"):
            decoder.divide_weights(count, num_bytes)
    assert decoder.divide_weights(2**16, 2**20) == 0
    assert decoder.divide_weights(1, 1) == 0
    assert decoder.divide_weights(2, 2**40) == 2
    for region in (-1, 2, 2**62):
        with pytest.raises(ValueError, match="no such region"):
            decoder.read_seconds(region, core.Prefetch.BOTH)
    assert decoder.read_seconds(1, core.Prefetch.BOTH) > 0


def test_kernels_alone_refuse_arrays_that_do_not_fit() -> None:
    weight, a, out = floats(3, 8), floats(2, 8), floats(2, 3)
    f32 = core.PanelFormat(core.Encoding.F32)
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


def drawing(**changes: Any) -> Any:
    """Returns a plain way to draw, with changes."""
    return core.DrawMethod(**({"sharpness": 1.0, "top_k": None, "top_p": 1.0, "least": LEAST} | changes))


def changed_to(values: npt.NDArray[np.float64], method: Any = None) -> Any:
    """Returns a choice among these logits instead of the model's own."""
    choice = core.RowChoice(method, 0.0, None)
    choice.change(np.arange(values.size), values)
    return choice


@pytest.mark.parametrize("isa", core.available_isas())
@pytest.mark.parametrize("size", [1, 5, 64, 200, 4097])
def test_changes_that_leave_no_order_or_no_maximum_are_refused(isa: str, size: int) -> None:
    sampler, row = core.BatchSampler(isa, 2), np.zeros((2, size), np.float32)
    plain = core.RowChoice(None, 0.0, None)
    for method in (None, drawing(), drawing(top_k=3, top_p=0.9)):
        for spoiled in {0, size // 2, size - 1}:
            values = np.random.default_rng(size).normal(size=size)
            values[spoiled] = NAN
            with pytest.raises(ValueError, match="NaN"):
                sampler.sample(row, [plain, changed_to(values, method)])
    with pytest.raises(ValueError, match="infinite"):
        sampler.sample(row, [plain, changed_to(np.full(size, INF), drawing())])
    assert [result.token_id for result in sampler.sample(row, [plain, plain])] == [0, 0]


@pytest.mark.parametrize("isa", core.available_isas())
def test_a_row_whose_tokens_are_all_banned_has_no_token(isa: str) -> None:
    sampler, row = core.BatchSampler(isa, 1), np.zeros((1, 200), np.float32)
    for method in (None, drawing(), drawing(top_k=3)):
        choice = core.RowChoice(method, 0.5, 2)
        choice.allow(np.zeros(7, np.uint32))
        (result,) = sampler.sample(row, [choice])
        assert (result.token_id, result.num_not_finite, result.score) == (None, 0, None)


@pytest.mark.parametrize("isa", core.available_isas())
def test_the_largest_numbers_have_an_order(isa: str) -> None:
    huge = np.where(np.arange(200) % 2, np.float32(3e38), np.float32(-3e38)).astype(np.float32)
    sampler = core.BatchSampler(isa, 1)
    for row, token_id in ((huge, 1), (np.abs(huge), 0)):
        (result,) = sampler.sample(row[None], [core.RowChoice(drawing(), 0.0, 3)])
        assert (result.token_id, result.num_not_finite) == (token_id, 0)
        assert result.score.largest_ids[0] == token_id


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("sharpness", [0.0, -1.0, NAN, INF, -INF]),
        ("top_k", [0, -1, -(2**63)]),
        ("top_p", [0.0, -0.5, 1.5, NAN, INF]),
        ("least", [1e-9, 1.0, NAN, INF]),
    ],
)
def test_impossible_methods_of_drawing_are_refused(name: str, values: list[float]) -> None:
    for value in values:
        with pytest.raises(ValueError, match="draw"):
            drawing(**{name: value})


def test_impossible_noise_is_refused() -> None:
    for noise in (1.0, 2.0, -1e-300, NAN, INF, -INF):
        with pytest.raises(ValueError, match="noise"):
            core.RowChoice(drawing(), noise, None)


def test_batches_that_do_not_fit_are_refused() -> None:
    sampler, rows, plain = core.BatchSampler("", 2), np.zeros((2, 40), np.float32), core.RowChoice(None, 0.0, None)
    short, long, outside, below = (core.RowChoice(None, 0.0, None) for _ in range(4))
    short.allow(np.ones(1, np.uint32))
    long.allow(np.ones(3, np.uint32))
    outside.change(np.array([40]), np.zeros(1))
    below.change(np.array([-1]), np.zeros(1))
    calls: list[Callable[[], object]] = [
        lambda: sampler.sample(rows, [plain]),
        lambda: sampler.sample(rows[:, :0].copy(), [plain, plain]),
        lambda: sampler.sample(misaligned(rows), [plain, plain]),
        *[lambda wrong=wrong: sampler.sample(rows, [plain, wrong]) for wrong in (short, long, outside, below)],  # type: ignore[misc]
        lambda: sampler.score(rows, [0], 1),
        lambda: sampler.score(rows, [0, 40], 1),
        lambda: sampler.score(rows, [-1, 0], 1),
        lambda: sampler.score(rows, [0, 0], -1),
        lambda: sampler.score(misaligned(rows), [0, 0], 1),
        lambda: core.RowChoice(None, 0.0, -1),
        lambda: plain.allow(np.zeros(0, np.uint32)),
        lambda: plain.allow(misaligned(np.zeros(2, np.uint32))),
        lambda: plain.change(np.zeros(2, np.int64), np.zeros(1)),
        lambda: plain.change(misaligned(np.zeros(2, np.int64)), np.zeros(2)),
        lambda: plain.change(np.zeros(2, np.int64), misaligned(np.zeros(2))),
        lambda: core.BatchSampler("mmx", 1),
        *[lambda threads=threads: core.BatchSampler("", threads) for threads in (0, -1, 4097)],  # type: ignore[misc]
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"row|mask|change|threads|instruction set|misaligned"):
            call()


def test_an_empty_batch_has_no_tokens() -> None:
    sampler = core.BatchSampler("", 2)
    assert sampler.sample(np.zeros((0, 5), np.float32), []) == sampler.score(np.zeros((0, 5), np.float32), [], 1) == []
