"""MXFP4: FP4 values, two a byte, the first in the low half, with a power of two per 32 of them.

    weight  U8 [N, K / 2],   weight_scale U8 [N, K / 32]           Quark
    weight_packed, weight_scale                                    compressed-tensors, the same

    weight[n, k] = value[n, k] * 2 ** (scale[n, g] - 127), rounded to bfloat16, which is exact unless it overflows

Scales may be F8_E8M0 instead of U8: then 255 is NaN, and so are the 32 weights. In U8 it is 2 ** 128, as transformers has it.
"""

from __future__ import annotations

import numpy as np

from quire.arrays import Float32Array
from quire.models.quantized.arithmetic import unpack_codes
from quire.models.quantized.stored import PackedWeight, RowReader, StoredTensors, size_of
from quire.models.safetensors_file import TensorEntry
from quire.models.small_floats import DOUBLED_E2M1, decode_half_exponents
from quire.models.weights import SourceDType

GROUP = 32
_EXPONENTS = ("U8", "F8_E8M0")


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
        open=lambda: _rows_of(stored, codes, scales, num_in),
    )


def _rows_of(stored: StoredTensors, codes: TensorEntry, scales: TensorEntry, num_in: int) -> RowReader:
    data, exponents = stored.array(codes).reshape(-1, num_in // 2), stored.array(scales).reshape(-1, num_in // GROUP)

    def read(start: int, stop: int) -> Float32Array:
        values = DOUBLED_E2M1[unpack_codes(data[start:stop], 4, num_in)].reshape(stop - start, -1, GROUP)
        with np.errstate(over="ignore"):
            values *= decode_half_exponents(exponents[start:stop, :, None], scales.dtype)
        return values.reshape(stop - start, num_in)

    return read
