"""Blocks of the KV cache as bytes: what is written to a disk or sent to another process, and read back there.

    header   magic, version of this format, the order of elements, and the shape; as JSON, ended by a newline
    pages    K and V of all layers, in the format of the cache, in the executor's own order

A block is read only by an executor of the same order and shape. It means the same there if both compute the same model with
equal `numerics`, which the bytes do not say.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum

from quire.errors import KVBlockError
from quire.kv.layout import KVLayout
from quire.models.strict_json import shorten

VERSION = 1
"""Raised whenever the header, or the order of a page's elements, changes."""

_MAGIC = b"QUIREKVB"


class PageOrder(Enum):
    """TILES of 32 tokens, per layer and head, as the core multiplies them; or K [L, tokens, K, D] and then V, as arrays."""

    TILES = "tiles"
    ARRAYS = "arrays"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFormat:
    """How an executor writes blocks. `num_bytes` is the length of the pages of one."""

    layout: KVLayout
    order: PageOrder
    num_bytes: int

    def packed(self, pages: bytes) -> bytes:
        """Returns a block with its header."""
        return self._header + pages

    def pages_of(self, data: bytes) -> bytes:
        """Returns the pages of a block; raises KVBlockError for a block of another version, order, shape or length."""
        start, newline, pages = data.partition(b"\n")
        if not newline or not start.startswith(_MAGIC):
            raise KVBlockError("these bytes are no block of a KV cache", given=f"{len(data)} bytes", next_step=_COMPUTE)
        if start + newline != self._header:
            raise KVBlockError(
                "a block of another version, order or shape",
                given=_shown(start.removeprefix(_MAGIC)),
                limit=self._header.removeprefix(_MAGIC).decode().rstrip(),
                next_step=_COMPUTE,
            )
        if len(pages) != self.num_bytes:
            raise KVBlockError(
                "a block was cut or lengthened", given=f"{len(pages)} bytes of pages", limit=self.num_bytes, next_step=_COMPUTE
            )
        return pages

    @property
    def _header(self) -> bytes:
        layout = self.layout
        fields = {
            "version": VERSION,
            "order": self.order.value,
            "format": layout.name,
            "shape": [layout.num_layers, layout.num_kv_heads, layout.block_size, layout.head_dim],
            "num_bytes": self.num_bytes,
        }
        return _MAGIC + json.dumps(fields).encode() + b"\n"


def _shown(header: bytes) -> str:
    return shorten(ascii(header[: _MAX_SHOWN + 1].decode(errors="replace"))[1:-1], _MAX_SHOWN)


_MAX_SHOWN = 240
_COMPUTE = "Compute the block's tokens again, or export the block with this version and model."
