"""A Qwen2 checkpoint with key biases of 500: the rule keeps its quality, and without it nothing would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quire.bench.kv_quality import KVQualityReport, KVWork, measure_kv_quality
from quire.bench.quality import Text, in_pieces
from quire.config import KVFormat
from quire.executors import key_bias
from quire.executors.native import available_isas
from quire.models.checkpoint import Checkpoint
from quire.models.weights import SourceDType, SourceTensor, Weights
from support.configs import spec_of
from support.weights import random_weights

pytestmark = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")

SPEC = spec_of("qwen2", hidden_size=256, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=5, vocab_size=512)
BIASED_LAYERS = (0, 4)
CHANNELS = (5, 20)
HALF = SPEC.head_dim // 2  # a rotary pair is channels c and c + 32 of a head
QUANTIZED = [kv_format.value for kv_format in KVFormat if kv_format.is_quantized]


def qwen2(bias: float) -> Checkpoint:
    """Returns a model with key biases in two channels of two layers, which queries there read as softly as other channels."""
    tensors = dict(random_weights(SPEC))
    for layer in BIASED_LAYERS:
        name = f"layers.{layer}.attn"
        biases = tensors[f"{name}.k.bias"].to_float32().reshape(SPEC.num_kv_heads, -1).copy()
        biases[:, CHANNELS] = bias, -bias
        tensors[f"{name}.k.bias"] = float32(biases.reshape(-1))
        for part in ("q.weight", "q.bias"):
            whole = tensors[f"{name}.{part}"].to_float32()
            heads = whole.reshape(SPEC.num_heads, SPEC.head_dim, -1).copy()
            heads[:, [*CHANNELS, *(channel + HALF for channel in CHANNELS)]] /= 500
            tensors[f"{name}.{part}"] = float32(heads.reshape(whole.shape))
    return Checkpoint(directory=Path("nowhere"), spec=SPEC, weights=Weights(tensors, b""), model_context=SPEC.max_context)


def float32(values: np.ndarray) -> SourceTensor:
    return SourceTensor(dtype=SourceDType.FLOAT32, bits=np.ascontiguousarray(values, dtype=np.float32))


def measured(checkpoint: Checkpoint) -> KVQualityReport:
    token_ids = tuple(np.random.default_rng(3).integers(0, SPEC.vocab_size, 1000).tolist())
    text = Text(token_ids=token_ids, is_answer=(False,) * len(token_ids))
    return measure_kv_quality(checkpoint, KVWork(pieces=(in_pieces([text], (), 500),)), {"threads": 1})


def losses(report: KVQualityReport) -> dict[str, float]:
    return {found.kv: found.worst_kl for found in report.formats if found.kv in QUANTIZED}


def test_biases_of_500_cost_nothing_by_the_rule_and_everything_without(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, biased = qwen2(0.1), qwen2(500.0)
    expected, report = measured(plain), measured(biased)
    assert (expected.exact_key_layers, report.exact_key_layers) == ((), BIASED_LAYERS)
    monkeypatch.setattr(key_bias, "MAX_BIAS", np.inf)
    lost = measured(biased)
    assert lost.exact_key_layers == ()
    for kv_format in QUANTIZED:
        assert losses(report)[kv_format] <= 1.1 * losses(expected)[kv_format]
        assert losses(lost)[kv_format] > 20 * losses(expected)[kv_format]
    assert losses(report)["int8"] <= 3e-4
