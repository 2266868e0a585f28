"""MXFP4: FP4 values, two a byte, the first in the low half, with a power of two per 32 of them.

    weight  U8 [N, K / 2],   weight_scale U8 [N, K / 32]           Quark
    weight_packed, weight_scale                                    compressed-tensors, the same

    weight[n, k] = value[n, k] * 2 ** (scale[n, g] - 127), rounded to bfloat16, which is exact unless it overflows

Scales may be F8_E8M0 instead of U8: then 255 is NaN, and so are the 32 weights. In U8 it is 2 ** 128, as transformers has it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quire.arrays import Float32Array
from quire.models.group_format import GroupCodes, GroupFormat, Offset, ScaleType, bits_of
from quire.models.quantized.arithmetic import unpack_codes
from quire.models.quantized.rows import WeightRows
from quire.models.quantized.stored import PackedWeight, StoredTensors, size_of
from quire.models.small_floats import DOUBLED_E2M1, decode_half_exponents
from quire.models.weights import SourceDType

GROUP = 32
_EXPONENTS = ("U8", "F8_E8M0")
_FORMAT = GroupFormat(5, GROUP, ScaleType.BFLOAT16, Offset.CENTER)
_CODES = (DOUBLED_E2M1 + _FORMAT.center).astype(np.uint8)


def packed_matrix(stored: StoredTensors, module: str, leaf: str) -> PackedWeight:
    """Returns the weight of a module whose bytes lie under `leaf` and whose powers of two under `weight_scale`."""
    codes = stored.matrix(f"{module}.{leaf}", ("U8",))
    num_out, num_in = codes.shape[0], codes.shape[1] * 2
    scales = stored.part(f"{module}.weight_scale", _EXPONENTS, (num_out, size_of(num_in, GROUP, codes)))
    return PackedWeight(
        name=f"{module}.weight",
        num_rows=num_out,
        num_columns=num_in,
        dtype=SourceDType.BFLOAT16,
        parts=(codes, scales),
        open=lambda: Fp4Rows(
            data=stored.array(codes).reshape(-1, num_in // 2),
            exponents=stored.array(scales).reshape(-1, num_in // GROUP),
            exponent_dtype=scales.dtype,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp4Rows(WeightRows):
    """Doubled values, which are whole numbers, times half of the power of two that the exponent says."""

    data: npt.NDArray[np.uint8]
    exponents: npt.NDArray[np.uint8]
    exponent_dtype: str

    def values(self, start: int, stop: int) -> Float32Array:
        values = DOUBLED_E2M1[self._codes(start, stop)].reshape(stop - start, -1, GROUP)
        with np.errstate(over="ignore"):
            values *= decode_half_exponents(self.exponents[start:stop, :, None], self.exponent_dtype)
        return values.reshape(stop - start, -1)

    def group_format(self) -> GroupFormat:
        return _FORMAT

    def groups(self, group_format: GroupFormat, start: int, stop: int) -> GroupCodes:
        scales = decode_half_exponents(self.exponents[start:stop], self.exponent_dtype)
        return GroupCodes(codes=_CODES[self._codes(start, stop)], scales=bits_of(scales, group_format.scales))

    def _codes(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        return unpack_codes(self.data[start:stop], 4, 2 * self.data.shape[1])
