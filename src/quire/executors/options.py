"""What an executor is built from besides a model: one value, which can be sent to another process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from quire.arrays import Float32Array
from quire.config import DType, Quantize, WeightFormat
from quire.executors.packing import PackLayout
from quire.kv.layout import KVLayout

Importance = Mapping[str, Float32Array]
"""Mean square of every input of a matrix over a text, float32 [K], by the matrix's canonical name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorOptions:
    """The settings of an executor.

    `num_own_tiles` is for KV formats that have own tiles. `threads` is for native and torch, `packed_cache` (the directory
    where packed weights are kept, or None) for native.
    `int_layout` is that of the integers which the reference quantizes to; native uses the layout of its instruction set.
    `weights` None means that `dtype` and `quantize` choose the format of the matrices. `importance` guides the rounding where
    they are quantized; None: all inputs matter alike.
    """

    layout: KVLayout
    num_blocks: int
    num_own_tiles: int = 0
    dtype: DType
    quantize: Quantize = Quantize.NONE
    threads: int = 1
    int_layout: PackLayout = PackLayout.VNNI
    packed_cache: Path | None = None
    weights: WeightFormat | None = None
    importance: Importance | None = None

    @property
    def weight_format(self) -> WeightFormat:
        """How matrices lie in memory."""
        return self.weights or WeightFormat.of(self.dtype, self.quantize)


def calibration_name(importance: Importance | None) -> str:
    """Returns a short name that two calibrations share only if they are equal: part of what decides the bits of logits."""
    if not importance:
        return "none"
    digest = sha256()
    for name, values in sorted(importance.items()):
        digest.update(name.encode())
        digest.update(values.tobytes())
    return digest.hexdigest()[:16]
