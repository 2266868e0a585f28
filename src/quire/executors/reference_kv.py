"""The paged cache of the reference executor, with own tiles where the KV format has them.

    step       tokens of a request at positions [32, 70)
    tiles      [32 ............ 64)      [64 ... 70)
    written    own tile; full: its page  own tile: the request's last tile
    row 40     sees pages of [0, 32), and [32, 41) as bfloat16
    row 69     sees pages of [0, 64), and [64, 70) as bfloat16

So what a row sees depends on its position alone, not on what was computed together. A step that begins inside a tile ends in
it: the own tile is not overwritten while a step that failed may run again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from quire.arrays import Int32Array
from quire.config import KERNEL_TILE_TOKENS
from quire.errors import ExecutorError
from quire.executors.protocol import StepBatch
from quire.executors.reference_kv_formats import Array, PagedPart, Slots, key_part, value_part
from quire.kv.layout import KVLayout


class View(NamedTuple):
    """Rows of a step that see the same K/V [Nk, K, D], of which the last are their own."""

    rows: slice
    keys: Array
    values: Array


class PagedKV:
    """Pages [N * block_size slots] of every layer, and own tiles [num_own_tiles, 32, K, D] as bfloat16 values."""

    def __init__(self, layout: KVLayout, num_blocks: int, num_own_tiles: int, arithmetic: type[np.floating[Any]]) -> None:
        num_slots = num_blocks * layout.block_size
        self._layout, self._num_blocks, self._arithmetic = layout, num_blocks, arithmetic
        self._keys = [key_part(layout, layer, num_slots, arithmetic) for layer in range(layout.num_layers)]
        self._values = [value_part(layout, num_slots, arithmetic) for _ in range(layout.num_layers)]
        shape = layout.num_layers, 2, num_own_tiles, KERNEL_TILE_TOKENS, layout.num_kv_heads, layout.head_dim
        self._own_tiles = np.zeros(shape, np.float32)
        self._is_finite = True

    @property
    def num_bytes(self) -> int:
        """Bytes of pages, and of own tiles as the two bytes a number that they mean."""
        return sum(array.nbytes for array in self._arrays) + self._own_tiles.nbytes // 2

    def append(self, layer: int, batch: StepBatch, k: Array, v: Array) -> Iterator[View]:
        """Writes K and V [T, K, D] of a step, and returns what its rows see of them, request by request."""
        if self._layout.format.is_quantized:
            is_finite = bool(np.isfinite(k).all() and np.isfinite(v).all())
            self._is_finite = is_finite and (layer == 0 or self._is_finite)
        if batch.own_tiles is not None:
            return iter(self._append_tiles(layer, batch, k, v, batch.own_tiles))
        self._keys[layer].write(batch.slot_mapping, k)
        self._values[layer].write(batch.slot_mapping, v)
        return (self._whole_view(layer, batch, request) for request in range(len(batch.context_lens)))

    def require_finite(self) -> None:
        """Raises ExecutorError if the latest step had a number to quantize that is not finite."""
        if not self._is_finite:
            raise ExecutorError(
                "keys or values are not finite",
                limit=f"finite numbers in kv_format={self._layout.format.value}",
                next_step="Look for NaN in the weights, or leave kv_format out to see where it spreads.",
            )

    def _whole_view(self, layer: int, batch: StepBatch, request: int) -> View:
        rows = slice(batch.query_start[request], batch.query_start[request + 1])
        return View(rows, *self.read(layer, self._slots(batch, request, int(batch.context_lens[request]))))

    def _append_tiles(self, layer: int, batch: StepBatch, k: Array, v: Array, own_tiles: Int32Array) -> list[View]:
        parts = self._keys[layer], self._values[layer]
        new = [part.rounded(x) for part, x in zip(parts, (k, v), strict=True)]
        views = []
        for request, own_tile in enumerate(own_tiles):
            own = self._own_tiles[layer, :, own_tile]
            for rows, start in _tiles_of(batch, request):
                first = int(batch.positions[rows.start]) - start
                stop = first + rows.stop - rows.start
                own[:, first:stop] = [x[rows] for x in new]
                slots = self._slots(batch, request, start + KERNEL_TILE_TOKENS)
                if stop == KERNEL_TILE_TOKENS:
                    for part, tile in zip(parts, own, strict=True):
                        part.write(slots[start:], tile)
                views.append(self._tile_view(layer, rows, slots[:start], own[:, :stop]))
        return views

    def _tile_view(self, layer: int, rows: slice, slots: Slots, own: Array) -> View:
        """Returns what rows of one tile see: pages before it, and what of the tile is written."""
        parts = self._keys[layer], self._values[layer]
        past = self.read(layer, slots)
        seen = [part.turned_back(tile).astype(self._arithmetic) for part, tile in zip(parts, own, strict=True)]
        return View(rows, *(np.concatenate(both) for both in zip(past, seen, strict=True)))

    def read(self, layer: int, slots: Slots) -> tuple[Array, Array]:
        """Returns K and V of slots in the type of the arithmetic; own tiles are slots that follow those of all blocks."""
        num_paged = self._num_blocks * self._layout.block_size
        found = np.empty((2, len(slots), self._layout.num_kv_heads, self._layout.head_dim), self._arithmetic)
        is_own = slots >= num_paged
        for index, part in enumerate((self._keys[layer], self._values[layer])):
            found[index, ~is_own] = part.read(slots[~is_own])
            own = self._own_tiles[layer, index].reshape(-1, *found.shape[2:])
            found[index, is_own] = part.turned_back(own[slots[is_own] - num_paged])
        return found[0], found[1]

    def copy_block(self, source: int, target: int) -> None:
        """Copies the pages of a block."""
        for array in self._arrays:
            array[self._rows_of(array, target)] = array[self._rows_of(array, source)]

    def copy_own_tile(self, source: int, target: int) -> None:
        """Copies an own tile."""
        self._own_tiles[:, :, target] = self._own_tiles[:, :, source]

    def pages_of(self, block: int) -> bytes:
        """Returns the pages of a block: keys of all layers, then values of all."""
        return b"".join(array[self._rows_of(array, block)].tobytes() for array in self._arrays)

    def set_pages(self, block: int, pages: bytes) -> None:
        """Overwrites the pages of a block with those of another, of the same shape."""
        start = 0
        for array in self._arrays:
            target = array[self._rows_of(array, block)]
            target[...] = np.frombuffer(pages, array.dtype, target.size, start).reshape(target.shape)
            start += target.nbytes

    @property
    def _arrays(self) -> Iterator[Array]:
        parts: list[PagedPart] = [*self._keys, *self._values]
        return (array for part in parts for array in part.arrays)

    def _rows_of(self, array: Array, block: int) -> slice:
        size = len(array) // self._num_blocks
        return slice(block * size, (block + 1) * size)

    def _slots(self, batch: StepBatch, request: int, num_tokens: int) -> Slots:
        """Returns the slots of positions [0, num_tokens) of one request."""
        position, size = np.arange(num_tokens), self._layout.block_size
        slots: Slots = batch.block_tables[request, position // size] * size + position % size
        return slots


def _tiles_of(batch: StepBatch, request: int) -> Iterator[tuple[slice, int]]:
    """Yields the rows of a request that stand in one tile, with the position at which the tile starts."""
    row, stop = batch.query_start[request : request + 2].tolist()
    while row < stop:
        position = int(batch.positions[row])
        start = position // KERNEL_TILE_TOKENS * KERNEL_TILE_TOKENS
        last = min(stop, row + start + KERNEL_TILE_TOKENS - position)
        yield slice(row, last), start
        row = last
