"""The number formats of GGUF tensors: their numbers in the file, the layout of a block, and how a block becomes float32.

A block is a NumPy record, so decoding is arithmetic on its named parts. The order of multiplications is that of ggml's
reference: the values equal those of its dequantizer bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.arrays import Float32Array
from quire.models.gguf import blocks
from quire.models.group_format import GroupFormat, Offset, ScaleType
from quire.models.weights import SourceDType

_Decode = Callable[[npt.NDArray[Any]], Float32Array]
_D, _M = ("d", "<f2"), ("m", "<f2")
_HALF, _TWO = ScaleType.FLOAT16, ScaleType.TWO_LEVEL
_GROUPS: Mapping[str, GroupFormat] = MappingProxyType(
    {
        "Q4_0": GroupFormat(4, 32, _HALF, Offset.CENTER),
        "Q4_1": GroupFormat(4, 32, _HALF, Offset.MINIMUM),
        "Q5_0": GroupFormat(5, 32, _HALF, Offset.CENTER),
        "Q5_1": GroupFormat(5, 32, _HALF, Offset.MINIMUM),
        "Q8_0": GroupFormat(8, 32, _HALF, Offset.CENTER),
        "Q3_K": GroupFormat(4, 16, _TWO, Offset.CENTER),
        "Q4_K": GroupFormat(4, 32, _TWO, Offset.MINIMUM),
        "Q5_K": GroupFormat(5, 32, _TWO, Offset.MINIMUM),
        "Q6_K": GroupFormat(6, 16, _TWO, Offset.CENTER),
        "IQ4_NL": GroupFormat(8, 32, _HALF, Offset.CENTER),
        "IQ4_XS": GroupFormat(8, 32, _TWO, Offset.CENTER),
        "MXFP4": GroupFormat(5, 32, ScaleType.BFLOAT16, Offset.CENTER),
    }
)
"""The formats that hold these kinds exactly, filled by `csrc/gguf_blocks.cpp`. Codes of 3 bits, or of a table, take more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One number format: `block` is the record of `num_elements` values in the file, `decode` maps records to float32 rows.

    `groups` is the group format that holds every block exactly, if there is one.
    """

    name: str
    num_elements: int
    block: np.dtype[Any]
    decode: _Decode
    dtype: SourceDType = SourceDType.QUANTIZED
    groups: GroupFormat | None = None

    @property
    def block_bytes(self) -> int:
        return self.block.itemsize

    def row_bytes(self, num_columns: int) -> int:
        """Returns the bytes of a row, whose length the block divides."""
        return num_columns // self.num_elements * self.block_bytes


def _quantized(name: str, num_elements: int, fields: list[Any], decode: _Decode) -> Kind:
    return Kind(name=name, num_elements=num_elements, block=np.dtype(fields), decode=decode, groups=_GROUPS.get(name))


def _plain(name: str, storage: str, dtype: SourceDType, decode: _Decode) -> Kind:
    return Kind(name=name, num_elements=1, block=np.dtype(storage), decode=decode, dtype=dtype)


KINDS: Mapping[int, Kind] = MappingProxyType(
    {
        0: _plain("F32", "<f4", SourceDType.FLOAT32, blocks.decode_float),
        1: _plain("F16", "<f2", SourceDType.FLOAT16, blocks.decode_float),
        2: _quantized("Q4_0", 32, [_D, ("q", "u1", 16)], blocks.decode_q4_0),
        3: _quantized("Q4_1", 32, [_D, _M, ("q", "u1", 16)], blocks.decode_q4_1),
        6: _quantized("Q5_0", 32, [_D, ("high", "u1", 4), ("q", "u1", 16)], blocks.decode_q5_0),
        7: _quantized("Q5_1", 32, [_D, _M, ("high", "u1", 4), ("q", "u1", 16)], blocks.decode_q5_1),
        8: _quantized("Q8_0", 32, [_D, ("q", "i1", 32)], blocks.decode_q8_0),
        10: _quantized("Q2_K", 256, [("scales", "u1", 16), ("q", "u1", 64), _D, _M], blocks.decode_q2_k),
        11: _quantized("Q3_K", 256, [("high", "u1", 32), ("q", "u1", 64), ("scales", "u1", 12), _D], blocks.decode_q3_k),
        12: _quantized("Q4_K", 256, [_D, _M, ("scales", "u1", 12), ("q", "u1", 128)], blocks.decode_q4_k),
        13: _quantized("Q5_K", 256, [_D, _M, ("scales", "u1", 12), ("high", "u1", 32), ("q", "u1", 128)], blocks.decode_q5_k),
        14: _quantized("Q6_K", 256, [("q", "u1", 128), ("high", "u1", 64), ("scales", "i1", 16), _D], blocks.decode_q6_k),
        20: _quantized("IQ4_NL", 32, [_D, ("q", "u1", 16)], blocks.decode_iq4_nl),
        23: _quantized("IQ4_XS", 256, [_D, ("high", "<u2"), ("scales", "u1", 4), ("q", "u1", 128)], blocks.decode_iq4_xs),
        30: _plain("BF16", "<u2", SourceDType.BFLOAT16, blocks.decode_bfloat16),
        39: _quantized("MXFP4", 32, [("e", "u1"), ("q", "u1", 16)], blocks.decode_mxfp4),
    }
)
"""Kinds by their number in the file."""

OTHER_KINDS: Mapping[int, str] = MappingProxyType(
    {4: "Q4_2", 5: "Q4_3", 9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S"}
    | {22: "IQ2_S", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 31: "Q4_0_4_4", 32: "Q4_0_4_8"}
    | {33: "Q4_0_8_8", 34: "TQ1_0", 35: "TQ2_0", 36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8", 40: "NVFP4", 41: "Q1_0"}
)
"""Kinds that other programs write and Quire does not read, so that an error can name them."""


def number_of(kind: Kind) -> int:
    """Returns the number by which files name a kind."""
    return next(number for number, known in KINDS.items() if known.name == kind.name)
