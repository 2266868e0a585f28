"""Checkpoints that another library quantized: one small file per format, and a view in which their weights are whole.

`quantization_config` in `config.json` is read by allow-list, like the rest of that file. Which weights are quantized is
decided by what the files hold: a module may keep a plain weight, whatever the configuration says of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from quire.errors import UnsupportedConfigError
from quire.models.config_file import Config
from quire.models.strict_json import shorten
from quire.models.weights import SourceDType

if TYPE_CHECKING:
    from quire.models.quantized.fields import ModuleNames
    from quire.models.quantized.stored import PackedWeight, StoredTensors

_MLX_FIELD = "quantization"
QUANTIZATION_FIELDS = ("quantization_config", "compression_config", _MLX_FIELD)
_MODEL_DTYPES = {"float16": SourceDType.FLOAT16, "float32": SourceDType.FLOAT32}


class Quantization(Protocol):
    """How a checkpoint's weights are quantized."""

    @property
    def description(self) -> str:
        """The method, its bits and groups as text."""
        ...

    @property
    def excluded(self) -> ModuleNames:
        """Modules that stay unquantized; those that `find` itself refuses may be left out."""
        ...

    def find(self, stored: StoredTensors) -> Iterator[PackedWeight]:
        """Returns the quantized weights among the stored tensors; raises CheckpointError for parts that do not fit."""
        ...


def read_quantization(config: Config) -> Quantization | None:
    """Returns how the weights are quantized, or None; raises UnsupportedConfigError for what Quire does not read."""
    names = _fields_of(config)
    section = config.section(names[0]) if names else None
    if section is None:
        return None
    from quire.models.quantized.methods import METHODS  # ten modules, which most starts do not need

    for name in names[1:]:
        config.require_same(name, names[0])
    method = section.text("quant_method")
    if method is None and _is_mlx(names, section):
        method = "mlx"
    if method is None or method not in METHODS:
        raise UnsupportedConfigError(
            f"config.json: {names[0]}.quant_method names no quantization that Quire reads",
            given="nothing" if method is None else shorten(json.dumps(method)),
            limit=", ".join(METHODS),
            next_step="Use a checkpoint in one of these formats, or the unquantized one and `--quantize`.",
        )
    quantization = METHODS[method](section, _model_dtype(config))
    section.refuse_unread()
    return quantization


def describe_reading(config: Config) -> str:
    """Returns all of `config.json` that decides the values of quantized weights, as text."""
    sections = [config.section(name) for name in _fields_of(config)[:1]]
    return " ".join((_model_dtype(config).value, *(section.as_json() for section in sections if section is not None)))


def _fields_of(config: Config) -> list[str]:
    return [name for name in QUANTIZATION_FIELDS if config.has(name)]


def _is_mlx(names: list[str], section: Config) -> bool:
    """Whether a section without a method is MLX's, which writes one under either name or under both."""
    return _MLX_FIELD in names or (section.has("group_size") and section.has("bits"))


def _model_dtype(config: Config) -> SourceDType:
    """Returns the format that the model itself is in: bfloat16 unless config.json names another."""
    name = config.text("dtype") or config.text("torch_dtype") or ""
    return _MODEL_DTYPES.get(name, SourceDType.BFLOAT16)
