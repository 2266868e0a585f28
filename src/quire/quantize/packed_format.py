"""The format that is written: compressed-tensors' pack-quantized, which vLLM, transformers and Quire read.

M.weight_packed      I32 [N, K * bits / 32]     codes, the first in the lowest bits
M.weight_scale       BF16 or F16 [N, K / group]
M.weight_zero_point  I32 [N * bits / 32, K / group], packed along N; not with 8 bits, where it is 128
M.weight_shape       I64 [2]                    N and K
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.errors import defect
from quire.models.quantized.arithmetic import rounded, unpack_codes
from quire.models.safetensors_file import SafetensorsFile
from quire.models.weights import SourceDType
from quire.quantize.gptq import Rounded
from quire.quantize.grid import Codes, Grid
from quire.units import cdiv

_WORD_BITS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTensor:
    """A tensor as a safetensors file holds it, contiguous; `dtype` is the format's own word."""

    dtype: str
    elements: npt.NDArray[Any]

    @property
    def num_bytes(self) -> int:
        return self.elements.nbytes


def plain_tensor(values: npt.NDArray[np.float32], dtype: SourceDType) -> FileTensor:
    """Returns float32 values rounded to a format of 16 bits."""
    return FileTensor(dtype=dtype.value, elements=np.ascontiguousarray(rounded(values, dtype).bits))


def packed_tensors(module: str, matrix: Rounded, grid: Grid) -> dict[str, FileTensor]:
    """Returns the tensors of a quantized matrix by their names in the file."""
    tensors = {
        f"{module}.weight_packed": FileTensor(dtype="I32", elements=_packed(matrix.codes, grid.bits)),
        f"{module}.weight_scale": plain_tensor(matrix.scales, grid.scale_dtype),
        f"{module}.weight_shape": FileTensor(dtype="I64", elements=np.array(matrix.codes.shape, np.int64)),
    }
    if not grid.is_symmetric:
        zeros = np.ascontiguousarray(_packed(matrix.zeros.T, grid.bits).T)
        tensors[f"{module}.weight_zero_point"] = FileTensor(dtype="I32", elements=zeros)
    return tensors


def read_packed(file: SafetensorsFile, module: str, grid: Grid) -> Rounded:
    """Returns a matrix that `packed_tensors` wrote into a file."""
    num_out, num_in = (int(size) for size in _elements(file, f"{module}.weight_shape"))
    scales = file.read(f"{module}.weight_scale").to_float32()
    if grid.is_symmetric:
        zeros = np.full(scales.shape, grid.center, np.uint8)
    else:
        zeros = unpack_codes(_elements(file, f"{module}.weight_zero_point").T, grid.bits, num_out).T
    return Rounded(
        codes=unpack_codes(_elements(file, f"{module}.weight_packed"), grid.bits, num_in),
        scales=scales,
        zeros=np.ascontiguousarray(zeros),
    )


def _elements(file: SafetensorsFile, name: str) -> npt.NDArray[Any]:
    elements = file.read_raw(name)
    if elements is None:
        raise defect(f"{name} was written in another format than this version writes")
    return elements


def bits_per_weight(tensors: Mapping[str, FileTensor], shape: Sequence[int]) -> float:
    """Returns the bits that a weight of a matrix takes in the file."""
    return 8 * sum(tensor.num_bytes for tensor in tensors.values()) / prod(shape)


def quantization_config(grid: Grid, ignored: Sequence[str]) -> dict[str, Any]:
    """Returns the section of config.json: every linear layer on one grid, but for the modules that are ignored."""
    weights = {
        "num_bits": grid.bits,
        "type": "int",
        "symmetric": grid.is_symmetric,
        "strategy": "group",
        "group_size": grid.group,
        "block_structure": None,
        "dynamic": False,
        "actorder": None,
        "observer": "minmax",
        "observer_kwargs": {},
    }
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "kv_cache_scheme": None,
        "ignore": list(ignored),
        "config_groups": {"group_0": group},
    }


def _packed(codes: Codes, bits: int) -> npt.NDArray[np.int32]:
    """Returns rows of codes as words: the first code in the lowest bits, the last word filled with zeros."""
    per_word = _WORD_BITS // bits
    num_words = cdiv(codes.shape[1], per_word)
    padded = np.zeros((len(codes), num_words * per_word), np.uint32)
    padded[:, : codes.shape[1]] = codes
    shifts = np.arange(per_word, dtype=np.uint32) * np.uint32(bits)
    words: npt.NDArray[np.uint32] = np.bitwise_or.reduce(padded.reshape(len(codes), num_words, per_word) << shifts, axis=2)
    return words.view(np.int32)


def write_safetensors(path: Path, tensors: Mapping[str, FileTensor]) -> None:
    """Writes a safetensors file whose data begin at a multiple of 8 bytes; larger elements first, so that all are aligned."""
    in_order = sorted(tensors.items(), key=lambda item: -item[1].elements.itemsize)
    rows: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, tensor in in_order:
        stop = start + tensor.num_bytes
        rows[name] = {"dtype": tensor.dtype, "shape": list(tensor.elements.shape), "data_offsets": [start, stop]}
        start = stop
    header = json.dumps(rows).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _, tensor in in_order:
            file.write(tensor.elements.data)
