"""Bytes of the KV cache: the one capacity formula that planning, admission, the pool and the executors share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from quire.config import KVFormat
from quire.units import cdiv

_ELEMENT_BYTES: Mapping[KVFormat, int] = MappingProxyType({KVFormat.FLOAT32: 4, KVFormat.BFLOAT16: 2})


@dataclass(frozen=True, slots=True, kw_only=True)
class KVLayout:
    """Shape of the cache. A block holds K and V of `block_size` tokens in all layers and KV heads."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    block_size: int
    format: KVFormat

    @property
    def bytes_per_block(self) -> int:
        return 2 * self.num_layers * self.num_kv_heads * self._bytes_per_head

    @property
    def bytes_per_token(self) -> int:
        """A token's share of its block."""
        return self.bytes_per_block // self.block_size

    @property
    def _bytes_per_head(self) -> int:
        """Of the keys, or the values, of one head in a block: all that a format stores for them, in whole tokens."""
        return self.block_size * self.head_dim * _ELEMENT_BYTES[self.format]

    def blocks_for_tokens(self, num_tokens: int) -> int:
        """Returns the blocks that hold `num_tokens` tokens of one request."""
        return cdiv(num_tokens, self.block_size)

    def blocks_in_bytes(self, memory_bytes: int) -> int:
        """Returns how many whole blocks fit into `memory_bytes`."""
        return memory_bytes // self.bytes_per_block
