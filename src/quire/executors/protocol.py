"""The one interface of all executors: arrays of a step in, logits or tokens of the wanted rows out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from quire.arrays import Float32Array, Int32Array
from quire.executors.kv_shape import kv_layout
from quire.kv.layout import KVLayout
from quire.models.spec import ModelSpec
from quire.sample.sampler import RowSampler

__all__ = ["ArgmaxTokens", "Executor", "Float32Array", "Int32Array", "StepBatch", "StepHandle", "kv_layout"]


@dataclass(slots=True, kw_only=True)  # not frozen: two are made in every step, in a third of the time
class StepBatch:
    """The arrays of one step, in the letters of the glossary; PagedAttention's kernel inputs.

    token_ids     [T] int32   tokens to compute, requests one after the other
    positions     [T] int32   absolute position of each token in its request
    query_start   [B+1] int32 request b owns rows [query_start[b], query_start[b+1])
    context_lens  [B] int32   tokens visible to the request's last row: its past plus its rows here
    block_tables  [B, M] int32 block ids of each request, padded with 0 beyond its own blocks
    slot_mapping  [T] int32   block_id * block_size + offset where each token's K/V is written
    sample_rows   [S] int32   rows whose logits are wanted, ascending; S may be 0
    own_tiles     [B] int32   the own tile of each request, all different; None where the KV format has none
    """

    token_ids: Int32Array
    positions: Int32Array
    query_start: Int32Array
    context_lens: Int32Array
    block_tables: Int32Array
    slot_mapping: Int32Array
    sample_rows: Int32Array
    own_tiles: Int32Array | None = None

    def without_samples(self) -> StepBatch:
        """Returns the same step with no logits wanted."""
        return StepBatch(
            token_ids=self.token_ids,
            positions=self.positions,
            query_start=self.query_start,
            context_lens=self.context_lens,
            block_tables=self.block_tables,
            slot_mapping=self.slot_mapping,
            sample_rows=np.empty(0, dtype=np.int32),
            own_tiles=self.own_tiles,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ArgmaxTokens:
    """The argmax of each of S rows of logits.

    token_ids       [S] int32   its id, the smallest of equal ones; means nothing in a row that is not finite
    num_not_finite  [S] int32   logits of the row that are NaN or infinite
    """

    token_ids: Int32Array
    num_not_finite: Int32Array


class StepHandle(Protocol):
    """A step that was submitted."""

    def result(self) -> Float32Array:
        """Waits until the step has run and returns what `Executor.run` does; raises as it does."""


class Executor(RowSampler, Protocol):
    """Runs steps over its own paged KV memory, and samples. Not thread-safe: one caller, one call at a time."""

    @property
    def name(self) -> str:
        """What `quire info` calls it, with the instruction set: `native (avx512_bf16)`."""

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def layout(self) -> KVLayout: ...

    @property
    def num_blocks(self) -> int:
        """Blocks of KV memory; block ids are [0, num_blocks)."""

    @property
    def num_own_tiles(self) -> int:
        """Own tiles beside the blocks; their ids are [0, num_own_tiles). 0 where the KV format has none."""

    @property
    def kv_bytes(self) -> int:
        """Bytes of KV memory actually taken: the capacity formula's, plus at most a few hundred."""

    @property
    def numerics(self) -> str:
        """Names the weight format, kernel version and instruction set; equal strings promise equal bits."""

    def run(self, batch: StepBatch) -> Float32Array:
        """Writes K/V of all T tokens into their slots and returns logits [S, V], float32, of the wanted rows.

        Raises ExecutorError; K/V in the written slots is then undefined and everything else is untouched.
        """

    def submit(self, batch: StepBatch) -> StepHandle:
        """Starts `run`, so that an executor may compute while its caller plans. No other call until the result is taken."""

    def head(self, rows: Int32Array) -> Float32Array:
        """Returns logits [len(rows), V], float32, of any rows of the latest `run`: 0 is the first of its T tokens.

        What `run` does for its `sample_rows`, so that the logits of many rows need not be held at once.
        Raises ExecutorError for a row outside that step, and where no step has run.
        """

    def argmax(self, rows: Int32Array) -> ArgmaxTokens:
        """Returns the argmax of any rows of the latest `run`: what `argmax_of(head(rows))` finds, and raises as `head`.

        An executor need not write the logits down for it.
        """

    def read_kv(self, layer: int, slots: Int32Array) -> tuple[Float32Array, Float32Array]:
        """Returns K and V of the given slots as float32 [len(slots), K, D], after rotation and rounding."""

    def copy_block(self, source: int, target: int) -> None:
        """Copies all layers' K/V of block `source` to block `target`."""

    def copy_own_tile(self, source: int, target: int) -> None:
        """Copies all layers' K/V of own tile `source` to own tile `target`; raises ExecutorError for one that does not exist."""

    def export_block(self, block: int) -> bytes:
        """Returns all layers' K/V of a block, exactly, with the version and shape of the format."""

    def import_block(self, block: int, data: bytes) -> None:
        """Overwrites all layers' K/V of a block with an exported one; equal `numerics` then give equal bits.

        Raises KVBlockError, and changes nothing, for a block of another version, order, shape or length.
        """
