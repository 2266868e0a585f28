"""AWQ in its gemm layout: 4-bit integers packed along the outputs in an order of their own, with zero points.

    qweight  I32 [K, N / 8]     eight outputs a word, in the order 0 2 4 6 1 3 5 7
    qzeros   I32 [G, N / 8]     the same
    scales   [G, N]
    weight[n, k] = (code[k, n] - zero[g, n]) * scale[g, n], rounded to the format of the scales

The arithmetic is that of AutoAWQ's and GPTQModel's dequantizers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.models.config_file import Config
from quire.models.quantized.arithmetic import Grid, Scaling, unpack_codes
from quire.models.quantized.fields import Groups, ModuleNames, Overrides, groups_of, read_bits, read_group_size, read_names
from quire.models.quantized.rows import IntegerRows
from quire.models.quantized.stored import FLOATS, PackedWeight, StoredTensors, size_of
from quire.models.weights import SourceDType
from quire.units import cdiv

_BITS = 4
_PLACE_OF_OUTPUT = (0, 4, 1, 5, 2, 6, 3, 7)
_HARMLESS = """quant_method backend bits_type fuse_max_seq_len do_fuse exllama_config modules_to_fuse damp_percent sym desc_act
true_sequential meta lm_head pack_dtype method"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Awq:
    """Lin et al. 2023."""

    groups: Groups
    overrides: Overrides = ()
    excluded: ModuleNames
    label: str = "AWQ"

    @property
    def description(self) -> str:
        return f"{self.label}, {self.groups.description}, zero points"

    def find(self, stored: StoredTensors) -> Iterator[PackedWeight]:
        """Returns the quantized weights among the stored tensors."""
        return (self._weight(stored, module) for module in stored.modules("qweight"))

    def _weight(self, stored: StoredTensors, module: str) -> PackedWeight:
        codes = stored.matrix(f"{module}.qweight", ("I32",))
        num_in, num_words = codes.shape
        num_out = num_words * 32 // _BITS
        grid = Grid(rows=1, columns=groups_of(module, self.overrides, self.groups).columns(num_in))
        num_groups = size_of(num_in, grid.columns, codes)
        zeros = stored.part(f"{module}.qzeros", ("I32",), (num_groups, num_words))
        scales = stored.part(f"{module}.scales", FLOATS, (num_groups, num_out))

        def open_rows() -> IntegerRows:
            scaling = Scaling(grid=grid, scales=stored.floats(scales).to_float32().T, zeros=_in_order(stored.array(zeros)).T)
            words = stored.array(codes)

            def read(start: int, stop: int) -> npt.NDArray[np.uint8]:
                first = start // 8
                outputs = _in_order(words[:, first : cdiv(stop, 8)])[:, start - 8 * first : stop - 8 * first]
                return np.ascontiguousarray(outputs.T)

            return IntegerRows(read=read, scaling=scaling, bits=_BITS, num_columns=num_in, dtype=SourceDType(scales.dtype))

        return PackedWeight(
            name=f"{module}.weight",
            num_rows=num_out,
            num_columns=num_in,
            dtype=SourceDType(scales.dtype),
            parts=(codes, zeros, scales),
            open=open_rows,
        )


def _in_order(words: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Returns the codes [R, N] of packed words [R, N / 8] in the order of the outputs."""
    codes = unpack_codes(words, _BITS, words.shape[1] * 8)
    return codes.reshape(len(words), -1, 8)[:, :, _PLACE_OF_OUTPUT].reshape(len(words), -1)


def read_awq(section: Config) -> Awq:
    """Returns the method as `quantization_config` describes it."""
    section.ignore(_HARMLESS)
    for name in ("version", "format", "checkpoint_format"):
        section.require(name, "gemm", "GEMM")
    section.require("zero_point", True)
    read_bits(section, "bits" if section.has("bits") else "w_bit", (_BITS,), default=_BITS)
    size = read_group_size(section, "group_size" if section.has("group_size") else "q_group_size", default=128)
    return Awq(groups=Groups(_BITS, size), excluded=read_names(section, "modules_to_not_convert"))
