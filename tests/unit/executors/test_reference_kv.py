"""The KV formats by definition: what is rounded, what a row sees of it, and that only its position decides."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.config import DType, KVFormat
from quire.errors import ExecutorError, KVBlockError
from quire.executors.options import ExecutorOptions
from quire.executors.protocol import Float32Array, StepBatch
from quire.executors.reference import ReferenceExecutor
from quire.executors.reference_kv import PagedKV
from quire.executors.reference_kv_formats import int4_codes, int8_codes, packed, rotated, unpacked, widened
from quire.kv.layout import VALUE_GROUP, KVLayout
from quire.models.weights import SourceDType, SourceTensor, Weights, round_to_bfloat16
from support.configs import spec_of
from support.steps import step
from support.weights import random_weights

TILE = 32
NUM_HEADS, NUM_BLOCKS, NUM_OWN = 2, 6, 3
QUANTIZED = [kv_format for kv_format in KVFormat if kv_format.is_quantized]
OWN_TILED = [kv_format for kv_format in KVFormat if kv_format.has_own_tiles]
HEAD_DIMS = (8, 24, 64, 80, 96, 128, 256)


def layout(kv_format: KVFormat, head_dim: int = 24, block_size: int = TILE, exact: tuple[int, ...] = ()) -> KVLayout:
    sizes = {"num_layers": 2, "num_kv_heads": NUM_HEADS, "head_dim": head_dim, "block_size": block_size}
    return KVLayout(**sizes, format=kv_format, exact_key_layers=exact)


def numbers(seed: int, *shape: int) -> Float32Array:
    """Returns numbers of very different sizes."""
    drawn = np.random.default_rng(seed)
    return (drawn.standard_normal(shape) * np.exp(drawn.standard_normal(shape))).astype(np.float32)


def bfloat16(x: Float32Array) -> Float32Array:
    return widened(round_to_bfloat16(x))


@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e30]))
def test_int8_is_off_by_half_a_step_at_most_and_keeps_the_sign(seed: int, scale: float) -> None:
    x = numbers(seed, 5, 40) * np.float32(scale)
    codes, bits = int8_codes(x)
    step_size = widened(bits)[:, None]
    assert (np.abs(codes * step_size - x) <= 0.5001 * step_size).all()
    assert (step_size[:, 0] >= np.abs(x).max(axis=1) / 127).all()
    assert np.abs(codes.astype(int)).max() <= 127
    assert (codes.astype(np.float32) * x >= 0).all()


@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e30]), shift=st.sampled_from([0, -500, 500]))
def test_int4_is_off_by_half_a_step_at_most(seed: int, scale: float, shift: int) -> None:
    x = bfloat16((numbers(seed, 5, 40) + np.float32(shift)) * np.float32(scale))
    codes, bits, minimum_bits = int4_codes(x)
    step_size, minimum = widened(bits)[:, None], widened(minimum_bits)[:, None]
    assert (minimum[:, 0] == x.min(axis=1)).all()
    assert (np.abs(minimum + codes * step_size - x) <= 0.501 * step_size).all()
    assert codes.max() <= 15


def test_numbers_that_are_all_alike_have_no_spread() -> None:
    codes, bits, minimum_bits = int4_codes(np.full((1, 8), -3, np.float32))
    assert (codes.any(), bits.any(), widened(minimum_bits).tolist()) == (False, False, [-3.0])
    codes, bits = int8_codes(np.full((1, 8), 1e-38, np.float32))
    assert (codes.any(), bits.any()) == (False, False)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_never_becomes_a_number(bad: float) -> None:
    x = numbers(1, 3, 16)
    x[1, 5] = bad
    for _, bits, *_ in (int8_codes(x), int4_codes(x)):
        assert np.isnan(widened(bits)).tolist() == [False, True, False]


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_a_rotation_is_its_own_inverse_and_keeps_lengths(head_dim: int) -> None:
    x = numbers(2, 3, head_dim)
    turned = rotated(x)
    np.testing.assert_allclose(rotated(turned), x, rtol=0, atol=1e-5 * np.abs(x).max())
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), np.linalg.norm(x, axis=1), rtol=1e-5)
    one_hot = np.eye(head_dim, dtype=np.float32)[0]
    size = head_dim & -head_dim
    assert np.allclose(rotated(one_hot)[: min(size, 128)], min(size, 128) ** -0.5)


def test_two_codes_share_a_byte() -> None:
    codes = np.arange(16, dtype=np.uint8).reshape(2, 8)
    assert np.array_equal(unpacked(packed(codes)), codes)
    assert packed(codes).shape == (2, 4)


def expected_views(kv_format: KVFormat, k: Float32Array, v: Float32Array) -> list[tuple[Float32Array, Float32Array]]:
    """Returns the K and V that the row at each position sees, from the definition of the format alone."""
    rotate = rotated if kv_format is KVFormat.INT4 else np.array
    keys, values = bfloat16(rotate(k)), bfloat16(v)
    paged_k, paged_v = keys.copy(), values.copy()
    for start in range(0, len(k) - len(k) % TILE, TILE):
        tile = slice(start, start + TILE)
        if kv_format is KVFormat.INT4:
            codes, scales, minimums = (each for each in int4_codes(np.ascontiguousarray(keys[tile].transpose(1, 2, 0))))
            by_channel = widened(minimums)[..., None] + codes * widened(scales)[..., None]
            paged_k[tile] = by_channel.transpose(2, 0, 1)
        else:
            codes, scales = int8_codes(keys[tile])
            paged_k[tile] = codes * widened(scales)[..., None]
        for first in range(0, k.shape[-1], VALUE_GROUP[kv_format]):
            group = slice(first, first + VALUE_GROUP[kv_format])
            codes, scales, minimums = int4_codes(values[tile][..., group])
            paged_v[tile][..., group] = widened(minimums)[..., None] + codes * widened(scales)[..., None]
    return [
        (
            np.concatenate([rotate(paged_k[: p // TILE * TILE]), rotate(keys[p // TILE * TILE : p + 1])]),
            np.concatenate([paged_v[: p // TILE * TILE], values[p // TILE * TILE : p + 1]]),
        )
        for p in range(len(k))
    ]


def batch_of(start: int, stop: int, blocks: list[int], own_tile: int | None, block_size: int = TILE) -> StepBatch:
    made = step(([0] * (stop - start), start, blocks), block_size=block_size)
    return made if own_tile is None else replace(made, own_tiles=np.array([own_tile], dtype=np.int32))


def legal_borders(cuts: list[int], num_tokens: int) -> list[int]:
    """Returns borders of chunks at `cuts`, and at every tile's end that a chunk from inside the tile would cross."""
    borders = {0, num_tokens, *cuts}
    for cut in cuts:
        end = -(-cut // TILE) * TILE
        borders.add(min(end, num_tokens))
    return sorted(borders)


@settings(max_examples=40, deadline=None)
@given(
    kv_format=st.sampled_from(OWN_TILED),
    head_dim=st.sampled_from([8, 24, 80]),
    num_tokens=st.integers(1, 130),
    cuts=st.lists(st.integers(1, 129), max_size=6),
    block_size=st.sampled_from([32, 64]),
)
def test_what_a_row_sees_depends_on_its_position_alone(
    kv_format: KVFormat, head_dim: int, num_tokens: int, cuts: list[int], block_size: int
) -> None:
    k, v = (numbers(seed, num_tokens, NUM_HEADS, head_dim) for seed in (0, 1))
    expected = expected_views(kv_format, k, v)
    found = PagedKV(layout(kv_format, head_dim, block_size), NUM_BLOCKS, NUM_OWN, np.float32)
    borders = legal_borders([cut for cut in cuts if cut < num_tokens], num_tokens)
    for start, stop in pairwise(borders):
        views = found.append(1, batch_of(start, stop, [4, 0, 3, 1, 5], 2, block_size), k[start:stop], v[start:stop])
        for rows, keys, values in views:
            last = start + rows.stop - 1
            assert np.array_equal(keys, expected[last][0])
            assert np.array_equal(values, expected[last][1])
            assert last // TILE == (start + rows.start) // TILE


@pytest.mark.parametrize("kv_format", OWN_TILED)
def test_slots_behind_the_blocks_are_those_of_own_tiles(kv_format: KVFormat) -> None:
    k, v = (numbers(part, 40, NUM_HEADS, 24) for part in (0, 1))
    found = PagedKV(layout(kv_format), NUM_BLOCKS, NUM_OWN, np.float32)
    list(found.append(0, batch_of(0, 40, [4, 0], 1), k, v))
    keys, values = found.read(0, NUM_BLOCKS * TILE + TILE + np.arange(8))
    expected = expected_views(kv_format, k, v)[-1]
    assert np.array_equal(keys, expected[0][32:])
    assert np.array_equal(values, expected[1][32:])
    found.copy_own_tile(1, 2)
    assert np.array_equal(found.read(0, NUM_BLOCKS * TILE + 2 * TILE + np.arange(8))[0], keys)


def test_keys_of_exact_layers_are_neither_rotated_nor_quantized() -> None:
    k, v = (numbers(part, 64, NUM_HEADS, 24) for part in (0, 1))
    found = PagedKV(layout(KVFormat.INT4, exact=(1,)), NUM_BLOCKS, NUM_OWN, np.float32)
    plain = PagedKV(layout(KVFormat.INT4), NUM_BLOCKS, NUM_OWN, np.float32)
    for layer in (0, 1):
        for each in (found, plain):
            list(each.append(layer, batch_of(0, 64, [4, 0], 1), k, v))
    slots = np.concatenate([4 * TILE + np.arange(TILE), np.arange(TILE)])
    assert np.array_equal(found.read(1, slots)[0], bfloat16(k))
    assert np.array_equal(found.read(1, slots)[1], plain.read(1, slots)[1])
    assert np.array_equal(found.read(0, slots)[0], plain.read(0, slots)[0])
    assert not np.array_equal(plain.read(1, slots)[0], bfloat16(k))


SPEC = spec_of("llama", head_dim=24, num_hidden_layers=2, vocab_size=64)


def executor_of(kv_format: KVFormat, weights: Weights | None = None) -> ReferenceExecutor:
    found = replace(layout(kv_format), num_kv_heads=SPEC.num_kv_heads)
    num_own = NUM_OWN if found.has_own_tiles else 0
    options = ExecutorOptions(layout=found, num_blocks=NUM_BLOCKS, num_own_tiles=num_own, dtype=DType.FLOAT32)
    return ReferenceExecutor(SPEC, weights or random_weights(SPEC), options)


def prompt(executor: ReferenceExecutor, tokens: list[int], start: int, blocks: list[int], own_tile: int = 0) -> Float32Array:
    batch = step((tokens, start, blocks), block_size=TILE)
    own = np.array([own_tile], dtype=np.int32) if executor.layout.has_own_tiles else None
    return executor.run(replace(batch, own_tiles=own))


TOKENS = [(7 * position + 3) % 64 for position in range(70)]


@pytest.mark.parametrize("kv_format", KVFormat)
def test_a_block_travels_and_the_copy_of_a_request_answers_alike(kv_format: KVFormat) -> None:
    executor = executor_of(kv_format)
    prompt(executor, TOKENS, 0, [2, 0, 1], 1)
    expected = prompt(executor, [5, 6], 70, [2, 0, 1], 1)
    for source, target in ((2, 3), (0, 4)):
        executor.import_block(target, executor.export_block(source))
    executor.copy_block(1, 5)
    if executor.num_own_tiles:
        executor.copy_own_tile(1, 2)
    prompt(executor, [9] * 64, 0, [2, 0, 1], 1)
    assert np.array_equal(prompt(executor, [5, 6], 70, [3, 4, 5], 2), expected)


def test_every_smaller_format_is_farther_from_float32_and_none_far() -> None:
    exact, *others = (prompt(executor_of(kv_format), TOKENS, 0, [2, 0, 1]) for kv_format in KVFormat)
    errors = [float(np.sqrt(np.mean((found - exact) ** 2)) / np.sqrt(np.mean(exact**2))) for found in others]
    assert errors == sorted(errors)
    assert 0 < errors[0] < errors[-1] < 0.1


def test_a_block_of_another_format_is_refused() -> None:
    blocks = {kv_format: executor_of(kv_format).export_block(0) for kv_format in KVFormat}
    for kv_format in KVFormat:
        for other in set(KVFormat) - {kv_format}:
            with pytest.raises(KVBlockError, match="another version, order or shape"):
                executor_of(kv_format).import_block(0, blocks[other])


@pytest.mark.parametrize("kv_format", KVFormat)
@pytest.mark.parametrize("head_dim", [64, 128])
def test_the_cache_takes_what_the_capacity_formula_says(kv_format: KVFormat, head_dim: int) -> None:
    found = layout(kv_format, head_dim, 64)
    num_own = NUM_OWN if found.has_own_tiles else 0
    taken = PagedKV(found, NUM_BLOCKS, num_own, np.float32).num_bytes
    assert taken == NUM_BLOCKS * found.bytes_per_block + num_own * found.bytes_per_own_tile


def weights_with(value: float, token: int) -> Weights:
    weights = random_weights(SPEC)
    table = weights["embed.weight"].to_float32().copy()
    table[token] = value
    broken = {name: weights[name] for name in weights} | {"embed.weight": SourceTensor(dtype=SourceDType.FLOAT32, bits=table)}
    return Weights(broken, b"")


@pytest.mark.parametrize("kv_format", QUANTIZED)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_step_with_numbers_that_are_not_finite_fails_and_others_go_on(kv_format: KVFormat, value: float) -> None:
    healthy, broken = executor_of(kv_format), executor_of(kv_format, weights_with(value, 63))
    for executor in (healthy, broken):
        prompt(executor, TOKENS[:20], 0, [1], 1)
    with np.errstate(invalid="ignore"), pytest.raises(ExecutorError, match="keys or values are not finite"):
        prompt(broken, [1, 63, 2], 0, [0], 0)
    expected, found = (prompt(executor, TOKENS[20:30], 20, [1], 1) for executor in (healthy, broken))
    others = [token for token in range(64) if token != 63]
    assert np.array_equal(found[:, others], expected[:, others])
