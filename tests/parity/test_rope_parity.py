"""Rotary frequencies at the sizes of real models, against those that `transformers` computes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import transformers
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from quire.models.config_file import parse_config
from quire.models.families import build_spec
from quire.models.spec import RopeSpec

FLOAT32_ULP = 2.0**-23
SIZES = {
    "vocab_size": 251,
    "hidden_size": 4096,
    "intermediate_size": 100,
    "num_hidden_layers": 1,
    "num_attention_heads": 32,
    "max_position_embeddings": 131_072,
}
KINDS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 10_000.0},
    "default with a large base": {"rope_type": "default", "rope_theta": 1_000_000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 8.0},
    "llama 3.1": {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "yarn": {"rope_type": "yarn", "rope_theta": 1_000_000.0, "factor": 4.0, "original_max_position_embeddings": 32_768},
    "yarn with every option": {
        "rope_type": "yarn",
        "rope_theta": 10_000.0,
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 24.0,
        "beta_slow": 2.0,
        "mscale": 1.0,
        "mscale_all_dim": 0.8,
        "truncate": False,
    },
    "yarn with its own attention factor": {
        "rope_type": "yarn",
        "rope_theta": 10_000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 32_768,
        "attention_factor": 1.25,
    },
    "yarn whose factor is null": {
        "rope_type": "yarn",
        "rope_theta": 10_000.0,
        "factor": None,
        "original_max_position_embeddings": 32_768,
    },
    "yarn with fields of other engines": {
        "rope_type": "yarn",
        "rope_theta": 10_000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 32_768,
        "attn_factor": 0.5,
        "extrapolation_factor": 1.0,
        "finetuned": True,
    },
    "dynamic up to the context of the file": {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0},
    "longrope within its original context": {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0 + 0.01 * i for i in range(64)],
        "long_factor": [1.0 + 0.1 * i for i in range(64)],
        "factor": 4.0,
        "original_max_position_embeddings": 131_072,
    },
}


def our_rope(architecture: str, model_type: str, fields: dict[str, Any]) -> RopeSpec:
    config = {"architectures": [architecture], "model_type": model_type, "rms_norm_eps": 1e-6, **SIZES, **fields}
    rope = build_spec(parse_config(json.dumps(config).encode())).layers[0].rope
    assert rope is not None
    return rope


def assert_same(ours: RopeSpec, theirs: Any) -> None:
    np.testing.assert_allclose(ours.inv_freq, theirs.inv_freq.numpy(), rtol=2 * FLOAT32_ULP, atol=0)
    assert ours.attention_factor == pytest.approx(theirs.attention_scaling, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_frequencies_match_to_two_units_in_the_last_place(kind: str) -> None:
    theirs = LlamaRotaryEmbedding(transformers.LlamaConfig(**SIZES, rope_parameters=dict(KINDS[kind])))
    assert_same(our_rope("LlamaForCausalLM", "llama", {"rope_parameters": KINDS[kind]}), theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_older_field_names_mean_the_same(kind: str) -> None:
    parameters = dict(KINDS[kind])
    theta, name = parameters.pop("rope_theta"), parameters.pop("rope_type")
    scaling = None if name == "default" else parameters | {"type": name}
    older = our_rope("LlamaForCausalLM", "llama", {"rope_theta": theta, "rope_scaling": scaling})
    assert older == our_rope("LlamaForCausalLM", "llama", {"rope_parameters": KINDS[kind]})


@pytest.mark.parametrize("original", [4096, 131_072])
def test_longrope_matches_for_the_context_it_serves(original: int) -> None:
    factors = {"short_factor": [1.0 + i / 50 for i in range(48)], "long_factor": [1.0 + i / 2 for i in range(48)]}
    parameters = {"rope_type": "longrope", "rope_theta": 10_000.0, "partial_rotary_factor": 0.75, **factors}
    fields = {"original_max_position_embeddings": original, "rope_parameters": parameters}
    chosen = "long_factor" if SIZES["max_position_embeddings"] > original else "short_factor"
    config = transformers.Phi3Config(**SIZES, **json.loads(json.dumps(fields)), pad_token_id=None)
    config.rope_parameters["short_factor"] = factors[chosen]  # what transformers uses from the start
    assert_same(our_rope("Phi3ForCausalLM", "phi3", fields), Phi3RotaryEmbedding(config))
