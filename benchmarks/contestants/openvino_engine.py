"""OpenVINO as a contestant: optimum-intel's stateful model, exported from the same checkpoint, quantized by NNCF."""

from __future__ import annotations

from importlib.metadata import version
from types import MappingProxyType
from typing import Any

from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

from .protocol import Contestant, ContestantError, Entry
from .transformers_engine import ForwardLoop

_PLAIN = MappingProxyType({"bfloat16": "bf16", "float32": "f32"})
"""The arithmetic of weights that are not quantized; a processor without the first one does best in the second."""
_QUANTIZED: MappingProxyType[str, dict[str, Any]] = MappingProxyType(
    {"int8": {"bits": 8}, "int4": {"bits": 4, "sym": True, "group_size": 32, "ratio": 1.0}}
)


def open_contestant(entry: Entry) -> Contestant:
    """Exports, compresses and compiles the model; the plugin quantizes activations by itself where weights are integers."""
    name = entry.number_format
    if name not in _PLAIN and name not in _QUANTIZED:
        raise ContestantError(f"compared in {', '.join((*_PLAIN, *_QUANTIZED))} only")
    plugin: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": str(entry.threads),
        "PERFORMANCE_HINT": "LATENCY",
        **({"INFERENCE_PRECISION_HINT": _PLAIN[name]} if name in _PLAIN else {}),
    }
    model = OVModelForCausalLM.from_pretrained(
        entry.model,
        export=True,
        load_in_8bit=False,
        ov_config=plugin,
        quantization_config=OVWeightQuantizationConfig(**_QUANTIZED[name]) if name in _QUANTIZED else None,
    )
    facts = {package: version(package) for package in ("openvino", "optimum-intel", "transformers")}
    return ForwardLoop(model, facts | {"plugin": str(plugin), "weights": str(_QUANTIZED.get(name, name))}, {})
