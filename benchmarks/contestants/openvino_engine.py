"""OpenVINO as a contestant: optimum-intel's stateful model, exported from the same checkpoint, quantised by NNCF."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

from .protocol import Contestant, ContestantError, Entry
from .transformers_engine import ForwardLoop

_WEIGHTS = {"bfloat16": None, "int8": {"bits": 8}, "int4": {"bits": 4, "sym": True, "group_size": 32, "ratio": 1.0}}


def open_contestant(entry: Entry) -> Contestant:
    """Exports, compresses and compiles the model; the plugin quantises activations by itself where weights are integers."""
    if entry.number_format not in _WEIGHTS:
        raise ContestantError(f"compared in {', '.join(_WEIGHTS)} only")
    weights = _WEIGHTS[entry.number_format]
    plugin: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": str(entry.threads),
        "INFERENCE_PRECISION_HINT": "bf16",
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = OVModelForCausalLM.from_pretrained(
        entry.model,
        export=True,
        load_in_8bit=False,
        ov_config=plugin,
        quantization_config=None if weights is None else OVWeightQuantizationConfig(**weights),
    )
    facts = {name: version(name) for name in ("openvino", "optimum-intel", "transformers")}
    return ForwardLoop(model, facts | {"plugin": str(plugin), "weights": str(weights or "bfloat16")}, {})
