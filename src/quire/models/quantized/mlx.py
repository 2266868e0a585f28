"""MLX's affine quantization: integers in a stream of bits along the inputs, and a scale and a bias per group.

    weight  U32 [N, K * bits / 32]
    scales  [N, G]
    biases  [N, G]
    weight[n, k] = code[n, k] * scale[n, g] + bias[n, g]: in float32, then rounded to the format of the scales

That is the arithmetic of transformers (integrations/metal_quantization.py). MLX's own kernels may round in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.arrays import Float32Array
from quire.models.config_file import Config
from quire.models.group_format import GroupCodes, GroupFormat, Offset, bits_of
from quire.models.quantized.arithmetic import unpack_codes
from quire.models.quantized.fields import DENIED, Groups, ModuleNames, read_bits, read_group_size, read_names
from quire.models.quantized.rows import WeightRows, blocks_of, scale_type, shared_by
from quire.models.quantized.stored import FLOATS, PackedWeight, StoredTensors, refuse, size_of
from quire.models.weights import SourceDType

_BITS = (2, 3, 4, 5, 6, 8)
_FIELDS = ("group_size", "bits", "mode", "quant_method", "modules_to_not_convert", "linear_class", "quantize_input")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mlx:
    """`overrides` hold for single modules by name; None: not quantized."""

    groups: Groups
    overrides: Mapping[str, Groups | None] = field(default_factory=dict)
    excluded: ModuleNames

    @property
    def description(self) -> str:
        return f"MLX, {self.groups.description}" + (", other bits in some layers" if self.overrides else "")

    def find(self, stored: StoredTensors) -> Iterator[PackedWeight]:
        """Returns the quantized weights among the stored tensors."""
        modules = stored.modules("scales")
        return (self._weight(stored, module) for module in modules if f"{module}.weight" in stored)

    def _weight(self, stored: StoredTensors, module: str) -> PackedWeight:
        groups = self.overrides.get(module, self.groups)
        if groups is None:
            refuse(f"{module}.weight", DENIED)
        codes = stored.matrix(f"{module}.weight", ("U32",))
        num_out, num_in = codes.shape[0], size_of(codes.shape[1] * 32, groups.bits, codes)
        num_groups = size_of(num_in, groups.columns(num_in), codes)
        scales = stored.part(f"{module}.scales", FLOATS, (num_out, num_groups))
        name = f"{module}.qbiases" if f"{module}.qbiases" in stored else f"{module}.biases"
        biases = stored.part(name, (scales.dtype,), (num_out, num_groups))

        return PackedWeight(
            name=f"{module}.weight",
            num_rows=num_out,
            num_columns=num_in,
            dtype=SourceDType(scales.dtype),
            parts=(codes, scales, biases),
            open=lambda: AffineRows(
                words=stored.array(codes),
                scales=stored.floats(scales).to_float32(),
                biases=stored.floats(biases).to_float32(),
                bits=groups.bits,
                num_columns=num_in,
                dtype=SourceDType(scales.dtype),
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AffineRows(WeightRows):
    """code * scale + bias."""

    words: npt.NDArray[Any]
    scales: Float32Array
    biases: Float32Array
    bits: int
    num_columns: int
    dtype: SourceDType

    def values(self, start: int, stop: int) -> Float32Array:
        values = self._codes(start, stop).astype(np.float32)
        grouped = values.reshape(stop - start, self.scales.shape[1], -1)
        with np.errstate(over="ignore", invalid="ignore"):
            grouped *= self.scales[start:stop, :, None]
            grouped += self.biases[start:stop, :, None]
        return values

    def group_format(self) -> GroupFormat | None:
        scales, group = scale_type(self.dtype), shared_by(self._group_columns, self.num_columns)
        return None if scales is None or group is None else GroupFormat(max(4, self.bits), group, scales, Offset.MINIMUM)

    def groups(self, group_format: GroupFormat, start: int, stop: int) -> GroupCodes:
        blocks = blocks_of(group_format.group, self._group_columns, self.num_columns)
        scales, biases = (bits_of(each[start:stop, blocks], group_format.scales) for each in (self.scales, self.biases))
        return GroupCodes(codes=self._codes(start, stop), scales=scales, minimums=biases)

    @property
    def _group_columns(self) -> int:
        return self.num_columns // int(self.scales.shape[1])

    def _codes(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        return unpack_codes(self.words[start:stop], self.bits, self.num_columns)


def read_mlx(section: Config) -> Mlx:
    """Returns the method as `quantization` describes it: fields of the whole, and objects or false under modules' names."""
    section.ignore("quant_method linear_class")
    section.require("mode", "affine")
    section.require("quantize_input", False)
    excluded = read_names(section, "modules_to_not_convert")
    groups = _read_groups(section)
    overrides = {name: _read_module(section, name, groups) for name in section.names if name not in _FIELDS}
    return Mlx(groups=groups, overrides=overrides, excluded=excluded)


def _read_module(section: Config, name: str, groups: Groups) -> Groups | None:
    if section.is_bool(name):
        return groups if section.flag(name) else None
    module = section.section(name)
    if module is None:
        return groups
    module.require("mode", "affine")
    return _read_groups(module)


def _read_groups(section: Config) -> Groups:
    size = read_group_size(section)
    if size is None:
        section.refuse("group_size", "must be a number of inputs")
    return Groups(read_bits(section, "bits", _BITS), size)
