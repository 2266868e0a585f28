"""Shards in which the parts of quantized weights are whole weights under the names that families know."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from quire.models.config_file import Config
from quire.models.quantized import Quantization, describe_reading, read_quantization
from quire.models.quantized.fields import DENIED
from quire.models.quantized.stored import PackedView, PackedWeight, StoredTensors, refuse
from quire.models.safetensors_file import SafetensorsFile
from quire.models.shards import Shards, TensorFile, open_shards

_ACTIVATION_PARTS = frozenset(
    (
        *("input_scale", "input_zero_point", "input_global_scale", "input_scale_ub", "output_scale", "output_zero_point"),
        *("q_scale", "k_scale", "v_scale", "prob_scale", "k_zero_point", "v_zero_point"),
    )
)
"""Numbers about quantized activations or a quantized cache, which Quire computes without."""

_log = logging.getLogger("quire")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpackedShards:
    """The shards as the loader sees them, and the mean bits of a quantized weight in the files; None if none is quantized."""

    shards: Shards
    bits_per_weight: float | None


def open_unpacked(directory: Path, config: Config) -> UnpackedShards:
    """Returns the weight files of a directory, with whole weights where they are quantized."""
    quantization, shards = read_quantization(config), open_shards(directory)
    if quantization is None:
        return UnpackedShards(shards=shards, bits_per_weight=None)
    return unpack_shards(replace(shards, reading=(*shards.reading, describe_reading(config))), quantization)


def unpack_shards(shards: Shards, quantization: Quantization) -> UnpackedShards:
    """Returns the shards with every quantized weight whole; raises CheckpointError for parts that do not make one."""
    files = {name: file for file in shards.files for name in file.entries if shards.placement.get(name) is file}
    stored = StoredTensors(files)
    weights: dict[str, PackedWeight] = {}
    used: set[str] = set()
    for weight in quantization.find(stored):
        if weight.name in weights:
            refuse(weight.name, "is stored twice, in two quantized forms")
        if weight.name.removesuffix(".weight") in quantization.excluded:
            refuse(weight.name, DENIED)
        weights[weight.name] = weight
        used.update(part.name for part in weight.parts)
    for name in weights.keys() & files.keys() - used:
        refuse(name, "is stored twice, quantized and as it is")
    if not weights:
        _log.warning("config.json says that the weights are quantized, but the weight files hold none that is.")
    placement: dict[str, TensorFile] = {name: file for name, file in files.items() if name not in used and not _is_unused(name)}
    placement |= dict.fromkeys(weights, PackedView(weights, stored))
    inert = frozenset(_inert_biases(weights, files))
    return UnpackedShards(shards=replace(shards, placement=placement, inert=inert), bits_per_weight=_bits_per_weight(weights))


def _is_unused(name: str) -> bool:
    return name.rpartition(".")[2] in _ACTIVATION_PARTS


def _inert_biases(weights: dict[str, PackedWeight], files: dict[str, SafetensorsFile]) -> list[str]:
    """Returns biases of quantized layers that are zero: some quantizers write them for layers that never had one."""
    names = [f"{name.removesuffix('.weight')}.bias" for name in weights]
    found = [name for name in names if name in files and files[name].entries[name].is_usable]
    return [name for name in found if not files[name].read(name).bits.any()]


def _bits_per_weight(weights: dict[str, PackedWeight]) -> float | None:
    num_weights = sum(prod(weight.shape) for weight in weights.values())
    return 8 * sum(weight.num_bytes for weight in weights.values()) / num_weights if num_weights else None
