"""The torch executor: the layers of `Decoder` over a paged cache, on CPU.

A cross-check of the native core that shares no code with it, and faster than the reference where no core was compiled.
All requests of a step go through the linear layers together; attention gathers each one's context through its block table.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from quire.arrays import Float32Array, Int32Array
from quire.config import DType, KVFormat
from quire.errors import ExecutorError
from quire.executors.checks import check_block, check_rows, check_step, check_weights
from quire.executors.host import HostExecutor
from quire.executors.kv_blocks import BlockFormat, PageOrder
from quire.executors.options import ExecutorOptions
from quire.executors.protocol import StepBatch
from quire.executors.reference_math import scoring_of
from quire.executors.torch_decoder import Decoder, attention
from quire.models.spec import ModelSpec
from quire.models.weights import SourceDType, SourceTensor, Weights

_PROCESS = os.getpid()  # the one in which torch was imported and may have started threads
_STORED = {KVFormat.FLOAT32: torch.float32, KVFormat.BFLOAT16: torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placement:
    """Where K/V of a step go, and for each request its rows and the slots [context_len] of its context."""

    slots: Tensor
    contexts: tuple[tuple[slice, Tensor], ...]


class TorchExecutor(HostExecutor):
    """Runs steps in float32, with the number formats of the reference executor.

    With `DType.BFLOAT16` matrices hold bfloat16 values, widened once to the float32 they are computed in: as accurate as
    the reference, and no smaller than float32. Not bitwise reproducible: torch orders its sums by shape and threads.
    """

    def __init__(self, spec: ModelSpec, weights: Weights, options: ExecutorOptions) -> None:
        layout, dtype = options.layout, options.dtype
        self.spec = spec
        self.layout = layout
        self.num_blocks = options.num_blocks
        self._dtype = dtype
        self._threads = options.threads
        check_weights(spec, weights)
        with self._computing():
            self._decoder = Decoder.from_weights(spec, {name: _load(name, weights[name], dtype) for name in weights})
            shape = (spec.num_layers, self.num_blocks * layout.block_size, spec.num_kv_heads, spec.head_dim)
            self._k_cache = torch.zeros(shape, dtype=_STORED[layout.format])
            self._v_cache = torch.zeros(shape, dtype=_STORED[layout.format])
            self._latest = torch.empty(0, spec.hidden_size)
        self._blocks = BlockFormat(layout=layout, order=PageOrder.ARRAYS, num_bytes=layout.bytes_per_block)

    @property
    def name(self) -> str:
        return f"torch (cpu, {torch.backends.cpu.get_cpu_capability().lower()})"

    @property
    def kv_bytes(self) -> int:
        return self._k_cache.nbytes + self._v_cache.nbytes

    @property
    def numerics(self) -> str:
        machine = f"torch={torch.__version__} {torch.backends.cpu.get_cpu_capability()} threads={self._threads}"
        return f"torch-1 weights={self._dtype.value} kv={self.layout.format.value} {machine}"

    def run(self, batch: StepBatch) -> Float32Array:
        """Writes K/V of all T tokens into their slots and returns logits [S, V], float32, of the wanted rows.

        Raises ExecutorError; before anything is written for a token, position, slot or row outside its range.
        """
        check_step(batch, self.spec, self.layout, self.num_blocks, self.num_own_tiles)
        with self._computing():
            attend = partial(self._attend, self._placement(batch))
            x = self._decoder.hidden(_indices(batch.token_ids)[None], _indices(batch.positions)[None], attend)
            self._latest = x[0]
            return _array(self._decoder.logits(self._latest[_indices(batch.sample_rows)]))

    def head(self, rows: Int32Array) -> Float32Array:
        """Returns logits [len(rows), V], float32, of rows of the latest step; raises ExecutorError for a row it had not."""
        check_rows(rows, len(self._latest))
        with self._computing():
            return _array(self._decoder.logits(self._latest[_indices(rows)]))

    def read_kv(self, layer: int, slots: Int32Array) -> tuple[Float32Array, Float32Array]:
        """Returns K and V of the given slots as float32 [len(slots), K, D], after rotation and rounding."""
        with self._computing():
            wanted = _indices(slots)
            return _array(self._k_cache[layer, wanted].float()), _array(self._v_cache[layer, wanted].float())

    def copy_block(self, source: int, target: int) -> None:
        """Copies all layers' K/V of block `source` to block `target`."""
        with self._computing():
            for cache in (self._k_cache, self._v_cache):
                cache[:, self._slots_of(target)] = cache[:, self._slots_of(source)]

    def export_block(self, block: int) -> bytes:
        """Returns all layers' K/V of a block, with the version and shape of the format."""
        check_block(block, self.num_blocks)
        with self._computing():
            pages = [_bits(cache[:, self._slots_of(block)].contiguous()) for cache in (self._k_cache, self._v_cache)]
        return self._blocks.packed(b"".join(each.numpy().tobytes() for each in pages))

    def import_block(self, block: int, data: bytes) -> None:
        """Overwrites all layers' K/V of a block with an exported one; raises KVBlockError for any other bytes."""
        check_block(block, self.num_blocks)
        bits = torch.frombuffer(bytearray(self._blocks.pages_of(data)), dtype=torch.uint8)
        with self._computing():
            for cache, pages in zip((self._k_cache, self._v_cache), bits.chunk(2), strict=True):
                target = cache[:, self._slots_of(block)]
                target.copy_(pages.view(cache.dtype).reshape(target.shape))

    def _slots_of(self, block: int) -> slice:
        size = self.layout.block_size
        return slice(block * size, (block + 1) * size)

    def _attend(self, placement: _Placement, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Writes k and v [1, K, T, D] into the cache, then lets q [1, H, T, D] see it, request by request."""
        for cache, values in ((self._k_cache, k), (self._v_cache, v)):
            cache[layer, placement.slots] = values[0].transpose(0, 1).to(cache.dtype)
        scoring = scoring_of(self.spec, layer)
        mixed = torch.empty_like(q)
        for rows, slots in placement.contexts:
            keys, values = (cache[layer, slots].to(q.dtype).transpose(0, 1)[None] for cache in (self._k_cache, self._v_cache))
            mixed[:, :, rows] = attention(q[:, :, rows], keys, values, scoring)
        return mixed

    def _placement(self, batch: StepBatch) -> _Placement:
        size, contexts = self.layout.block_size, []
        for request, context_len in enumerate(batch.context_lens.tolist()):
            start, stop = batch.query_start[request : request + 2].tolist()
            position = np.arange(context_len)
            slots = batch.block_tables[request, position // size] * size + position % size
            contexts.append((slice(start, stop), torch.from_numpy(slots)))
        return _Placement(slots=_indices(batch.slot_mapping), contexts=tuple(contexts))

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Computes without gradients on this executor's threads, and turns what torch raises into ExecutorError."""
        if self._threads > 1 and os.getpid() != _PROCESS:  # torch would wait for its parent's threads for ever
            raise ExecutorError(
                "the threads of torch do not exist in a forked process",
                given=f"{self._threads} threads",
                next_step="Start processes with multiprocessing's 'spawn' method, or use threads=1 or executor='native'.",
            )
        num_threads = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                yield
        except (RuntimeError, IndexError) as error:
            if isinstance(error, ExecutorError):
                raise
            raise ExecutorError(
                f"torch failed: {error}", next_step="If memory is short, ask for less with kv_memory or max_num_batched_tokens."
            ) from error
        finally:
            torch.set_num_threads(num_threads)


def _load(name: str, tensor: SourceTensor, dtype: DType) -> SourceTensor:
    if dtype is DType.FLOAT32 or len(tensor.shape) == 1 or name == "position.weight":
        return tensor
    return SourceTensor(dtype=SourceDType.BFLOAT16, bits=tensor.to_bfloat16())


def _bits(values: Tensor) -> Tensor:
    return values.view(torch.uint8)


def _indices(values: Int32Array) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def _array(values: Tensor) -> Float32Array:
    array: Float32Array = values.numpy()
    return array
