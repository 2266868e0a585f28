"""compressed-tensors, the format of llm-compressor and vLLM: integers or FP8, packed or a byte each, by kinds of layers.

pack-quantized     weight_packed I32 [N, K * bits / 32], weight_shape I64 [2], weight_scale [N, G], weight_zero_point
                   I32 [N * bits / 32, G] where asymmetric, weight_g_idx I32 [K] where the inputs were sorted
int-quantized, float-quantized, naive-quantized
                   weight I8, F8_E4M3 or F8_E5M2 [N, K], weight_scale per tensor, output, group or block, weight_zero_point I8
mxfp4-pack-quantized
                   weight_packed U8 [N, K / 2], weight_scale U8 [N, K / 32]

weight[n, k] = (code[n, k] - zero) * scale, rounded to the format of the scales, as `compressed_tensors` itself does
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from quire.arrays import Float32Array
from quire.models.quantized.arithmetic import Grid, Scaling, unpack_codes
from quire.models.quantized.compressed_scheme import Scheme, WeightScheme
from quire.models.quantized.fields import ModuleNames
from quire.models.quantized.fp8 import FP8, grid_of
from quire.models.quantized.mxfp4 import packed_matrix
from quire.models.quantized.rows import IntegerRows, ValueRows, WeightRows
from quire.models.quantized.stored import FLOATS, PackedWeight, StoredTensors, order_part, refuse, size_of
from quire.models.safetensors_file import TensorEntry
from quire.models.small_floats import decode_fp8
from quire.models.weights import SourceDType
from quire.units import cdiv


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressedTensors:
    """The weights of every module are read as the scheme that targets the module says."""

    scheme: Scheme

    @property
    def excluded(self) -> ModuleNames:
        """None by name: the scheme's targets and patterns are enforced where a weight is found."""
        return ModuleNames()

    @property
    def description(self) -> str:
        return f"compressed-tensors, {self.scheme.description}"

    def find(self, stored: StoredTensors) -> Iterator[PackedWeight]:
        """Returns the quantized weights among the stored tensors."""
        for module in stored.modules("weight_packed"):
            weights = self._scheme_of(module, f"{module}.weight_packed")
            yield packed_matrix(stored, module, "weight_packed") if weights.is_float else _packed_weight(stored, module, weights)
        for module in stored.modules("weight_scale"):
            name = f"{module}.weight"
            if name in stored and stored.entry(name).dtype in ("I8", *FP8):
                yield _byte_weight(stored, module, self._scheme_of(module, name))

    def _scheme_of(self, module: str, name: str) -> WeightScheme:
        found = self.scheme.weights_of(module)
        if found is None:
            refuse(name, "is quantized, which quantization_config denies for this module, or says nothing of")
        return found


def _packed_weight(stored: StoredTensors, module: str, scheme: WeightScheme) -> PackedWeight:
    codes = stored.matrix(f"{module}.weight_packed", ("I32",))
    num_out, num_in = _logical_shape(stored, module, codes, scheme.bits)
    scales = stored.part(f"{module}.weight_scale", FLOATS)
    grid = _grid(scheme, scales, (num_out, num_in))
    groups = grid.shape_for((num_out, num_in))
    parts = [codes, stored.entry(f"{module}.weight_shape"), scales]
    zeros = None
    if not scheme.is_symmetric:
        zeros = stored.part(f"{module}.weight_zero_point", ("I32",), (cdiv(groups[0] * scheme.bits, 32), groups[1]))
        parts.append(zeros)
    order = order_part(stored, f"{module}.weight_g_idx", num_in, groups[1])
    if order is None and scheme.is_sorted:
        refuse(f"{module}.weight_g_idx", "is missing, though quantization_config says that the inputs were sorted (actorder)")
    parts += [] if order is None else [order]

    def open_rows() -> IntegerRows:
        if zeros is None:
            zero_points = np.full(groups, 1 << (scheme.bits - 1), np.uint8)
        else:
            zero_points = unpack_codes(stored.array(zeros).T, scheme.bits, groups[0]).T
        columns = None if order is None else stored.array(order)
        whole = Grid(rows=grid.rows, columns=grid.columns, group_of_column=columns)
        scaling = Scaling(grid=whole, scales=_scale_matrix(stored, scales, groups), zeros=zero_points)
        words = stored.array(codes)
        return IntegerRows(
            read=lambda start, stop: unpack_codes(words[start:stop], scheme.bits, num_in),
            scaling=scaling,
            bits=scheme.bits,
            num_columns=num_in,
            dtype=SourceDType(scales.dtype),
        )

    return _weight(module, (num_out, num_in), tuple(parts), open_rows)


def _byte_weight(stored: StoredTensors, module: str, scheme: WeightScheme) -> PackedWeight:
    codes = stored.matrix(f"{module}.weight", FP8 if scheme.is_float else ("I8",))
    shape = (codes.shape[0], codes.shape[1])
    scales = stored.part(f"{module}.weight_scale", FLOATS)
    grid = _grid(scheme, scales, shape)
    groups = grid.shape_for(shape)
    parts = [codes, scales]
    zeros = None
    if not scheme.is_symmetric:
        zeros = stored.part(f"{module}.weight_zero_point", ("I8",), scales.shape)
        parts.append(zeros)

    def open_rows() -> WeightRows:
        zero_points = None if zeros is None else stored.array(zeros).reshape(groups)
        scaling = Scaling(grid=grid, scales=_scale_matrix(stored, scales, groups), zeros=zero_points)
        bits = stored.array(codes)
        if scheme.is_float:
            return ValueRows(lambda start, stop: scaling.apply(decode_fp8(bits[start:stop], codes.dtype), start))
        return IntegerRows(
            read=lambda start, stop: bits[start:stop],
            scaling=scaling,
            bits=8,
            num_columns=shape[1],
            dtype=SourceDType(scales.dtype),
        )

    return _weight(module, shape, tuple(parts), open_rows)


def _weight(module: str, shape: tuple[int, int], parts: tuple[TensorEntry, ...], rows: Callable[[], WeightRows]) -> PackedWeight:
    """Returns the weight of a module; it is rounded to the format of its scales."""
    (scales,) = (part for part in parts if part.name == f"{module}.weight_scale")
    return PackedWeight(
        name=f"{module}.weight",
        num_rows=shape[0],
        num_columns=shape[1],
        dtype=SourceDType(scales.dtype),
        parts=parts,
        open=rows,
    )


def _logical_shape(stored: StoredTensors, module: str, codes: TensorEntry, bits: int) -> tuple[int, int]:
    """Returns the shape that `weight_shape` holds, which the packed codes must bear out."""
    entry = stored.part(f"{module}.weight_shape", ("I64", "I32"), (2,))
    num_out, num_in = map(int, stored.array(entry))
    num_codes = codes.shape[1] * 32 // bits
    if num_out != codes.shape[0] or not num_codes - 32 // bits < num_in <= num_codes:
        refuse(entry.name, "does not fit the packed weight", [num_out, num_in], f"{codes.name} {list(codes.shape)}")
    return num_out, num_in


def _grid(scheme: WeightScheme, scales: TensorEntry, shape: tuple[int, int]) -> Grid:
    """Returns how the matrix shares its scales; refuses scales of another shape than the scheme's."""
    if scheme.group_size is None:
        return grid_of(shape, scales, scheme.block)
    grid = Grid(rows=1, columns=scheme.group_size)
    expected = shape[0], size_of(shape[1], scheme.group_size, scales)
    if scales.shape != expected:
        refuse(scales.name, "does not hold the scales of its weight", list(scales.shape), list(expected))
    return grid


def _scale_matrix(stored: StoredTensors, scales: TensorEntry, groups: tuple[int, int]) -> Float32Array:
    return stored.floats(scales).to_float32().reshape(groups)
