"""Every `quant_method` that Quire reads, with the function that reads its section of config.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from quire.models.config_file import Config
from quire.models.quantized import Quantization
from quire.models.quantized.auto_round import read_auto_round
from quire.models.quantized.awq import read_awq
from quire.models.quantized.compressed_scheme import read_scheme
from quire.models.quantized.compressed_tensors import CompressedTensors
from quire.models.quantized.fp8 import read_fp8, read_modelopt
from quire.models.quantized.gptq import read_gptq
from quire.models.quantized.mlx import read_mlx
from quire.models.quantized.quark import read_quark
from quire.models.weights import SourceDType

METHODS: Mapping[str, Callable[[Config, SourceDType], Quantization]] = MappingProxyType(
    {
        "compressed-tensors": lambda section, _: CompressedTensors(scheme=read_scheme(section)),
        "awq": lambda section, _: read_awq(section),
        "gptq": lambda section, _: read_gptq(section),
        "auto-round": lambda section, _: read_auto_round(section),
        "intel/auto-round": lambda section, _: read_auto_round(section),
        "fp8": read_fp8,
        "fbgemm_fp8": read_fp8,
        "modelopt": read_modelopt,
        "quark": lambda section, _: read_quark(section),
        "mlx": lambda section, _: read_mlx(section),
        "metal": lambda section, _: read_mlx(section),
    }
)
