"""The one capacity formula: bytes of every KV format, and a memory divided into blocks and own tiles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.config import KERNEL_TILE_TOKENS, KVFormat
from quire.kv.layout import KVLayout
from quire.units import MIB

MOST_OF_BFLOAT16 = {KVFormat.INT8: 0.53, KVFormat.INT8_INT4: 0.42, KVFormat.INT4: 0.30}
HEAD_DIMS = (24, 64, 80, 96, 128, 256)


def layout(kv_format: KVFormat, head_dim: int = 64, **changes: object) -> KVLayout:
    values = {"num_layers": 3, "num_kv_heads": 2, "head_dim": head_dim, "block_size": 64, "format": kv_format} | changes
    return KVLayout(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kv_format", "most"), MOST_OF_BFLOAT16.items())
@pytest.mark.parametrize("head_dim", [64, 128])
def test_quantized_blocks_are_as_small_as_promised(kv_format: KVFormat, most: float, head_dim: int) -> None:
    exact = layout(KVFormat.BFLOAT16, head_dim).bytes_per_block
    assert layout(kv_format, head_dim).bytes_per_block <= most * exact


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_every_smaller_format_takes_less(head_dim: int) -> None:
    sizes = [layout(kv_format, head_dim).bytes_per_block for kv_format in KVFormat]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)


def test_a_tile_holds_its_codes_and_scales() -> None:
    found = layout(KVFormat.INT4)
    assert (found.key_tile_bytes, found.value_tile_bytes) == (1024 + 128 + 128, 1024 + 64 + 64)
    assert found.bytes_per_block == 2 * 3 * 2 * (1280 + 1152)
    found = layout(KVFormat.INT8_INT4)
    assert (found.key_tile_bytes, found.value_tile_bytes) == (2048 + 64, 1024 + 128 + 128)


def test_keys_of_exact_layers_are_bfloat16() -> None:
    plain, exact = (layout(KVFormat.INT4, exact_key_layers=layers) for layers in ((), (0, 2)))
    bfloat16_keys = KERNEL_TILE_TOKENS * 64 * 2
    assert exact.bytes_per_block - plain.bytes_per_block == 2 * 2 * 2 * (bfloat16_keys - plain.key_tile_bytes)


def test_an_own_tile_is_a_bfloat16_tile_of_every_layer_and_head() -> None:
    assert layout(KVFormat.INT8).bytes_per_own_tile == 0
    assert layout(KVFormat.INT4).bytes_per_own_tile == layout(KVFormat.BFLOAT16).bytes_per_block // 2


@given(
    kv_format=st.sampled_from(KVFormat),
    memory=st.integers(1, 4 * MIB),
    max_num_seqs=st.integers(1, 64),
    num_tokens=st.integers(1, 4096),
)
def test_blocks_and_own_tiles_fit_the_memory(kv_format: KVFormat, memory: int, max_num_seqs: int, num_tokens: int) -> None:
    found = layout(kv_format)
    room = found.divide(memory, max_num_seqs, num_tokens)
    own_bytes = room.num_own_tiles * found.bytes_per_own_tile
    if room.num_blocks:
        assert room.num_blocks * found.bytes_per_block + own_bytes <= memory
    assert (room.num_blocks > 0) == (memory >= found.bytes_for_tokens(1))
    if memory >= found.bytes_for_tokens(num_tokens):
        assert room.num_blocks >= found.blocks_for_tokens(num_tokens)
    assert (1 <= room.num_own_tiles <= max_num_seqs) if found.has_own_tiles else room.num_own_tiles == 0
    assert own_bytes <= max(memory // 4, found.bytes_per_own_tile)


def test_own_tiles_for_all_requests_where_a_quarter_of_the_memory_holds_them() -> None:
    found = layout(KVFormat.INT4)
    memory = 4 * 5 * found.bytes_per_own_tile
    assert [found.divide(memory, num_seqs, 32).num_own_tiles for num_seqs in (1, 5, 6)] == [1, 5, 5]


@given(st.sampled_from(list(KVFormat)), st.integers(1, 100), st.integers(1, 3000))
def test_a_memory_for_some_requests_is_divided_into_room_for_them(
    kv_format: KVFormat, num_requests: int, num_tokens: int
) -> None:
    found = layout(kv_format)
    memory = found.bytes_for_requests(num_requests, num_tokens)
    room = found.divide(memory, num_requests, num_tokens)
    assert room.num_blocks >= num_requests * found.blocks_for_tokens(num_tokens)
    assert room.num_own_tiles == (num_requests if found.has_own_tiles else 0)
    fewer = found.divide(memory - 1, num_requests, num_tokens)
    assert fewer.num_blocks < num_requests * found.blocks_for_tokens(num_tokens) or fewer.num_own_tiles < num_requests
