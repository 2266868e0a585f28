"""A model that computes nothing, so that a step costs the engine's own work only."""

from __future__ import annotations

import numpy as np

from quire.config import KVFormat
from quire.errors import ExecutorError
from quire.executors.host import HostExecutor
from quire.executors.protocol import ArgmaxTokens, Float32Array, Int32Array, StepBatch, kv_layout
from quire.models.spec import ModelSpec

_NUM_READY = 61
"""Prepared answers, used in turn: tokens change from step to step as a model's do."""


class NullExecutor(HostExecutor):
    """Keeps no K/V; the best tokens of a step are arbitrary prepared ones; logits are refused."""

    def __init__(self, spec: ModelSpec, block_size: int, num_blocks: int) -> None:
        self.name = "null"
        self.numerics = "null"
        self.spec = spec
        self.layout = kv_layout(spec, block_size, KVFormat.BFLOAT16)
        self.num_blocks = num_blocks
        self.kv_bytes = 0
        self._nothing: Float32Array = np.empty((0, spec.vocab_size), dtype=np.float32)
        self._ready: dict[int, list[ArgmaxTokens]] = {}
        self._num_answers = 0

    def run(self, batch: StepBatch) -> Float32Array:
        return self.head(batch.sample_rows) if len(batch.sample_rows) else self._nothing

    def head(self, rows: Int32Array) -> Float32Array:
        raise self._refused(f"logits of {len(rows)} rows")

    def argmax(self, rows: Int32Array) -> ArgmaxTokens:
        ready = self._ready.get(len(rows))
        if ready is None:
            ready = self._ready[len(rows)] = self._answers(len(rows))
        self._num_answers += 1
        return ready[self._num_answers % _NUM_READY]

    def read_kv(self, layer: int, slots: Int32Array) -> tuple[Float32Array, Float32Array]:
        raise self._refused(f"K/V of {len(slots)} slots in layer {layer}")

    def copy_block(self, source: int, target: int) -> None:
        """Copies nothing: no block holds anything."""

    def export_block(self, block: int) -> bytes:
        raise self._refused(f"K/V of block {block}")

    def import_block(self, block: int, data: bytes) -> None:
        raise self._refused(f"{len(data)} bytes for block {block}")

    def _answers(self, num_rows: int) -> list[ArgmaxTokens]:
        token_ids = np.random.default_rng(num_rows).integers(self.spec.vocab_size, size=(_NUM_READY, num_rows), dtype=np.int32)
        zeros = np.zeros(num_rows, dtype=np.int32)
        return [ArgmaxTokens(token_ids=each, num_not_finite=zeros) for each in token_ids]

    def _refused(self, what: str) -> ExecutorError:
        return ExecutorError("the null executor computes nothing", given=what, next_step="Ask it for the best tokens only.")
