"""What an executor is built from besides a model: one value, which can be sent to another process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quire.config import DType, Quantize, WeightFormat
from quire.executors.packing import PackLayout
from quire.kv.layout import KVLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorOptions:
    """The settings of an executor.

    `threads` is for native and torch, `packed_cache` (the directory where packed weights are kept, or None) for native.
    `int_layout` is that of the integers which the reference quantizes to; native uses the layout of its instruction set.
    `weights` None means that `dtype` and `quantize` choose the format of the matrices.
    """

    layout: KVLayout
    num_blocks: int
    dtype: DType
    quantize: Quantize = Quantize.NONE
    threads: int = 1
    int_layout: PackLayout = PackLayout.VNNI
    packed_cache: Path | None = None
    weights: WeightFormat | None = None

    @property
    def weight_format(self) -> WeightFormat:
        """How matrices lie in memory."""
        return self.weights or WeightFormat.of(self.dtype, self.quantize)
