"""Bytes of the KV cache: the one capacity formula that planning, admission and the pool share."""

from __future__ import annotations

from dataclasses import dataclass

from quire.config import KVFormat
from quire.units import cdiv


@dataclass(frozen=True, slots=True, kw_only=True)
class KVLayout:
    """Shape of the cache. Memory = 2 (K and V) * tokens * layers * kv heads * head_dim * bytes, as in the seed notes."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    block_size: int
    format: KVFormat

    @property
    def bytes_per_token(self) -> int:
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * self.format.bytes_per_element

    @property
    def bytes_per_block(self) -> int:
        return self.bytes_per_token * self.block_size

    def blocks_for_tokens(self, num_tokens: int) -> int:
        """Returns the blocks that hold `num_tokens` tokens of one request."""
        return cdiv(num_tokens, self.block_size)

    def blocks_in_bytes(self, memory_bytes: int) -> int:
        """Returns how many whole blocks fit into `memory_bytes`."""
        return memory_bytes // self.bytes_per_block
