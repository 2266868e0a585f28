"""Bytes of the KV cache: the one capacity formula that planning, admission, the pool and the executors share.

tile       32 tokens of one KV head: K, then V, each with its scales; every part in whole cache lines
block      block_size / 32 tiles of every KV head, in all layers
own tile   one tile of every KV head, in all layers, as bfloat16: of each running request, where the format has 4 bits
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from quire.config import KERNEL_TILE_TOKENS, KVFormat
from quire.units import cdiv

KEY_BITS: Mapping[KVFormat, int] = MappingProxyType(
    {KVFormat.FLOAT32: 32, KVFormat.BFLOAT16: 16, KVFormat.INT8: 8, KVFormat.INT8_INT4: 8, KVFormat.INT4: 4}
)
VALUE_BITS: Mapping[KVFormat, int] = MappingProxyType(
    {KVFormat.FLOAT32: 32, KVFormat.BFLOAT16: 16, KVFormat.INT8: 8, KVFormat.INT8_INT4: 4, KVFormat.INT4: 4}
)
VALUE_GROUP: Mapping[KVFormat, int] = MappingProxyType({KVFormat.INT8_INT4: 32, KVFormat.INT4: 64})
"""Channels of a token's values that share a scale and a minimum, where values have 4 bits."""

_LINE_BYTES = 64
_SCALE_BYTES = 2
_OWN_TILES_SHARE = 4
"""Own tiles take at most one part in so many of the memory, but there is always one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KVRoom:
    """What a memory is divided into."""

    num_blocks: int
    num_own_tiles: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KVLayout:
    """Shape of the cache. A block holds K and V of `block_size` tokens in all layers and KV heads.

    In `exact_key_layers` keys stay bfloat16 whatever the format: their biases would leave nothing of the other channels.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int
    block_size: int
    format: KVFormat
    exact_key_layers: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The format, and in which layers it does not hold for keys: `int4 keys 0,27 bfloat16`."""
        layers = ",".join(map(str, self.exact_key_layers))
        return f"{self.format.value} keys {layers} bfloat16" if layers else self.format.value

    @property
    def has_own_tiles(self) -> bool:
        return self.format.has_own_tiles

    @property
    def bytes_per_block(self) -> int:
        num_exact = len(self.exact_key_layers)
        keys = (self.num_layers - num_exact) * self.key_tile_bytes + num_exact * self._float_tile_bytes(KVFormat.BFLOAT16)
        bytes_per_tile = self.num_kv_heads * (keys + self.num_layers * self.value_tile_bytes)
        return bytes_per_tile * self.block_size // KERNEL_TILE_TOKENS

    @property
    def bytes_per_token(self) -> int:
        """A token's share of its block."""
        return self.bytes_per_block // self.block_size

    @property
    def bytes_per_own_tile(self) -> int:
        """What a running request takes beside its blocks; 0 where the format has no own tiles."""
        return 2 * self.num_layers * self.num_kv_heads * self._float_tile_bytes(KVFormat.BFLOAT16) if self.has_own_tiles else 0

    @property
    def key_tile_bytes(self) -> int:
        """Of the keys of one head in a tile, with their scales, in a layer that is not exact."""
        bits = KEY_BITS[self.format]
        if bits == 8:
            return _lines(cdiv(self.head_dim, 4) * 4 * KERNEL_TILE_TOKENS) + _lines(KERNEL_TILE_TOKENS * _SCALE_BYTES)
        if bits == 4:
            return _lines(cdiv(self.head_dim, 8) * 4 * KERNEL_TILE_TOKENS) + 2 * _lines(self.head_dim * _SCALE_BYTES)
        return self._float_tile_bytes(self.format)

    @property
    def value_tile_bytes(self) -> int:
        """Of the values of one head in a tile, with their scales."""
        bits = VALUE_BITS[self.format]
        if bits == 8:
            return _lines(self.head_dim * KERNEL_TILE_TOKENS) + _lines(KERNEL_TILE_TOKENS * _SCALE_BYTES)
        if bits == 4:
            num_groups = cdiv(self.head_dim, VALUE_GROUP[self.format])
            return _lines(cdiv(self.head_dim, 16) * 8 * KERNEL_TILE_TOKENS) + 2 * _lines(
                num_groups * KERNEL_TILE_TOKENS * _SCALE_BYTES
            )
        return self._float_tile_bytes(self.format)

    def _float_tile_bytes(self, kind: KVFormat) -> int:
        return KERNEL_TILE_TOKENS * self.head_dim * KEY_BITS[kind] // 8

    def blocks_for_tokens(self, num_tokens: int) -> int:
        """Returns the blocks that hold `num_tokens` tokens of one request."""
        return cdiv(num_tokens, self.block_size)

    def bytes_for_tokens(self, num_tokens: int) -> int:
        """Returns the bytes that one request of `num_tokens` tokens takes: its blocks, and its own tile."""
        return self.blocks_for_tokens(num_tokens) * self.bytes_per_block + self.bytes_per_own_tile

    def bytes_for_requests(self, num_requests: int, num_tokens: int) -> int:
        """Returns the least memory that `divide` gives room for so many requests of `num_tokens` tokens at once."""
        held = num_requests * self.bytes_for_tokens(num_tokens)
        return held if num_requests == 1 else max(held, _OWN_TILES_SHARE * num_requests * self.bytes_per_own_tile)

    def divide(self, memory_bytes: int, max_num_seqs: int, num_tokens: int) -> KVRoom:
        """Returns the own tiles, of at most `max_num_seqs` requests, and the blocks that fit into `memory_bytes`.

        Blocks for `num_tokens` tokens come before all own tiles but one. No block is left where the memory does not hold both.
        """
        num_own_tiles = 0
        if self.has_own_tiles:
            left = memory_bytes - self.blocks_for_tokens(num_tokens) * self.bytes_per_block
            fitting = min(memory_bytes // _OWN_TILES_SHARE, left) // self.bytes_per_own_tile
            num_own_tiles = min(max_num_seqs, max(1, fitting))
        left = memory_bytes - num_own_tiles * self.bytes_per_own_tile
        return KVRoom(num_blocks=max(0, left // self.bytes_per_block), num_own_tiles=num_own_tiles)


def _lines(num_bytes: int) -> int:
    """Returns a size in whole cache lines."""
    return cdiv(num_bytes, _LINE_BYTES) * _LINE_BYTES
