"""Feeds one request to an executor without an engine around it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from quire.config import DType, KVFormat, Quantize
from quire.executors.native import int_layout
from quire.executors.options import ExecutorOptions
from quire.executors.protocol import Executor, StepBatch, kv_layout
from quire.executors.reference import ReferenceExecutor
from quire.models.checkpoint import Checkpoint
from quire.units import cdiv

BLOCK_SIZE = 32
NUM_BLOCKS = 12

Logits = npt.NDArray[np.float32]


class Driver:
    """Feeds one request to an executor, in chunks, through blocks that lie in no particular order."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._blocks = np.random.default_rng(5).permutation(NUM_BLOCKS).astype(np.int32)

    def logits(self, token_ids: list[int], chunk_size: int | None = None) -> Logits:
        """Returns the logits [T, V] of all rows."""
        size = chunk_size or len(token_ids)
        return np.concatenate([self._step(token_ids[i : i + size], i) for i in range(0, len(token_ids), size)])

    def greedy(self, token_ids: list[int], num_tokens: int) -> list[int]:
        """Returns the continuation: one prefill, then one token a step."""
        tokens = list(token_ids)
        row = self._step(tokens, 0)[-1]
        for _ in range(num_tokens):
            tokens.append(int(row.argmax()))
            row = self._step(tokens[-1:], len(tokens) - 1)[-1]
        return tokens[len(token_ids) :]

    def _step(self, token_ids: list[int], start: int) -> Logits:
        positions = np.arange(start, start + len(token_ids), dtype=np.int32)
        context_len = start + len(token_ids)
        return self._executor.run(
            StepBatch(
                token_ids=np.array(token_ids, dtype=np.int32),
                positions=positions,
                query_start=np.array([0, len(token_ids)], dtype=np.int32),
                context_lens=np.array([context_len], dtype=np.int32),
                block_tables=self._blocks[None, : cdiv(context_len, BLOCK_SIZE)].copy(),
                slot_mapping=(self._blocks[positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE).astype(np.int32),
                sample_rows=np.arange(len(token_ids), dtype=np.int32),
            )
        )


def make_driver(name: str, checkpoint: Checkpoint, dtype: DType, quantize: Quantize = Quantize.NONE) -> Driver:
    """Returns a fresh executor of that name, with cache in `dtype`, and weights too where they are not quantized.

    The reference holds integers in the groups that the native executor would.
    """
    layout = kv_layout(checkpoint.spec, BLOCK_SIZE, KVFormat(dtype.value))
    arguments: dict[str, Any] = {"layout": layout, "num_blocks": NUM_BLOCKS, "dtype": dtype}
    if name == "reference":
        options = ExecutorOptions(**arguments, quantize=quantize, int_layout=int_layout())
        return Driver(ReferenceExecutor(checkpoint.spec, checkpoint.weights, options))
    if name == "torch":
        from quire.executors.torch_executor import TorchExecutor

        return Driver(TorchExecutor(checkpoint.spec, checkpoint.weights, ExecutorOptions(**arguments)))
    from quire.executors.native import NativeExecutor

    return Driver(NativeExecutor(checkpoint.spec, checkpoint.weights, ExecutorOptions(**arguments, quantize=quantize)))
