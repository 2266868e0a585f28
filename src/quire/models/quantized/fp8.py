"""FP8: 8-bit floating point with a scale per tensor, per output, or per block of 128 x 128, widened to 16 bits.

    weight                        F8_E4M3 or F8_E5M2 [N, K]
    weight_scale_inv              [N / 128, K / 128], the scale itself in spite of its name     DeepSeek, Qwen
    weight_scale                  one, or one per output                                        vLLM, FBGEMM, ModelOpt
    weight[n, k] = value[n, k] * scale: in float32, then rounded to the format that config.json names, else bfloat16

Two roundings, as in transformers (Fp8Dequantize in integrations/finegrained_fp8.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from quire.arrays import Float32Array
from quire.models.config_file import Config
from quire.models.quantized.arithmetic import Grid, Scaling
from quire.models.quantized.fields import ModuleNames, read_names, warn_of_activations, warn_of_cache
from quire.models.quantized.rows import ValueRows
from quire.models.quantized.stored import FLOATS, PackedWeight, StoredTensors, refuse
from quire.models.safetensors_file import TensorEntry
from quire.models.small_floats import decode_exponents, decode_fp8
from quire.models.weights import SourceDType

FP8 = ("F8_E4M3", "F8_E5M2")
_SCALES = ("weight_scale_inv", "weight_scale")
_SCALE_DTYPES = (*FLOATS, "F8_E8M0", "U8")
_HARMLESS = """quant_method fmt scale_fmt expert_dtype modules_to_convert dequantize activation_scale_ub quant_algo producer
quantization"""
MAX_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp8:
    """`block` is the rows and columns that share a scale, None where the shape of the scales says it."""

    block: tuple[int, int] | None
    dtype: SourceDType
    excluded: ModuleNames
    label: str = "FP8"

    @property
    def description(self) -> str:
        scales = "a scale per tensor or output" if self.block is None else f"blocks of {self.block[0]} x {self.block[1]}"
        return f"{self.label}, {scales}"

    def find(self, stored: StoredTensors) -> Iterator[PackedWeight]:
        """Returns the quantized weights among the stored tensors."""
        return (self._weight(stored, module) for module in stored.modules("weight") if _is_fp8(stored, module))

    def _weight(self, stored: StoredTensors, module: str) -> PackedWeight:
        codes = stored.matrix(f"{module}.weight", FP8)
        leaf = next((leaf for leaf in _SCALES if f"{module}.{leaf}" in stored), _SCALES[0])
        scales = stored.part(f"{module}.{leaf}", _SCALE_DTYPES)
        shape = (codes.shape[0], codes.shape[1])
        grid = grid_of(shape, scales, self.block)

        def open_rows() -> ValueRows:
            scaling = Scaling(grid=grid, scales=read_scales(stored, scales, grid.shape_for(shape)))
            bits = stored.array(codes)
            return ValueRows(lambda start, stop: scaling.apply(decode_fp8(bits[start:stop], codes.dtype), start))

        return PackedWeight(
            name=codes.name,
            num_rows=shape[0],
            num_columns=shape[1],
            dtype=self.dtype,
            parts=(codes, scales),
            open=open_rows,
        )


def _is_fp8(stored: StoredTensors, module: str) -> bool:
    return stored.entry(f"{module}.weight").dtype in FP8


def read_scales(stored: StoredTensors, scales: TensorEntry, shape: tuple[int, int]) -> Float32Array:
    """Returns scales as a matrix of the grid's shape; those of one byte are powers of two."""
    if scales.dtype in FLOATS:
        return stored.floats(scales).to_float32().reshape(shape)
    return decode_exponents(stored.array(scales), scales.dtype).reshape(shape)


def grid_of(shape: tuple[int, int], scales: TensorEntry, block: tuple[int, int] | None) -> Grid:
    """Returns how a matrix shares scales of this shape: by `block`, or one for all, or one per row; refuses other shapes."""
    num_out, num_in = shape
    grids = [Grid(rows=num_out, columns=num_in), Grid(rows=1, columns=num_in)]
    if block is not None:
        grids.insert(0, Grid(rows=block[0], columns=block[1]))
    shapes = [grid.shape_for(shape) for grid in grids]
    found = next(
        (grid for grid, (rows, columns) in zip(grids, shapes, strict=True) if scales.shape in _alike(rows, columns)), None
    )
    if found is None:
        refuse(
            scales.name,
            "does not hold the scales of its weight",
            list(scales.shape),
            " or ".join(str(list(each)) for each in shapes),
        )
    return found


def _alike(rows: int, columns: int) -> tuple[tuple[int, ...], ...]:
    """Returns the shapes in which files hold a scale per row, or one, beside the grid's own."""
    if columns > 1:
        return ((rows, columns),)
    return ((rows, columns), (rows,), ()) if rows == 1 else ((rows, columns), (rows,))


def read_fp8(section: Config, dtype: SourceDType) -> Fp8:
    """Returns the method as `quantization_config` describes it; `dtype` is that of the model."""
    section.ignore(_HARMLESS)
    excluded = read_names(section, "modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules")
    warn_of_cache(section, "kv_cache_scheme")
    section.require("activation_scheme", "static", "dynamic")
    if section.has("activation_scheme"):
        warn_of_activations(section, "activation_scheme")
    return Fp8(block=read_block(section, "weight_block_size"), dtype=dtype, excluded=excluded)


def read_block(section: Config, name: str) -> tuple[int, int] | None:
    """Returns the rows and columns of a block, or None where the field is absent or null."""
    if not section.has(name):
        return None
    sizes = section.numbers(name)
    if len(sizes) != 2 or any(size != int(size) or size > MAX_BLOCK for size in sizes):
        section.refuse(name, "must hold the rows and columns of a block", f"two whole numbers up to {MAX_BLOCK}")
    return int(sizes[0]), int(sizes[1])


def read_modelopt(section: Config, dtype: SourceDType) -> Fp8:
    """Returns ModelOpt's FP8; its other algorithms are refused by name."""
    section.choice("quant_algo", {"FP8": True})
    warn_of_cache(section, "kv_cache_quant_algo")
    section.ignore("config_groups quant_library")
    return read_fp8(section, dtype)
