"""What people are told about the storage of a quantized checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quire.models.config_file import read_config
from quire.models.quantized import read_quantization
from quire.models.quantized.view import open_unpacked
from quire.models.shards import has_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """How weights are quantized in the files, in words, and the mean bits of one that is, None without weight files."""

    description: str
    bits_per_weight: float | None


def describe_storage(directory: Path) -> Storage | None:
    """Returns how another library quantized the weights of a directory, or None."""
    config = read_config(directory)
    quantization = read_quantization(config)
    if quantization is None:
        return None
    bits = open_unpacked(directory, config).bits_per_weight if has_weights(directory) else None
    return Storage(description=quantization.description, bits_per_weight=bits)
