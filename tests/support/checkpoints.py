"""Tiny random checkpoints made by `transformers`, saved to disk, and loaded twice: by `transformers` and by Quire.

Shapes are awkward on purpose: heads of 24 or 80 elements, 7 query heads a kv head, 251 tokens, 100 hidden units, biases
and norm weights that are nowhere near their initial values, logits of size 1 to 30.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

VOCAB = 251


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One checkpoint to make: the `transformers` classes' stem, the config, and how to store and load it."""

    name: str
    stem: str
    fields: dict[str, Any] = field(default_factory=dict)
    stored_as: torch.dtype = torch.float32
    max_shard_size: str = "1GB"
    max_context: int | None = None
    shortest_prompt: int = 1


_GROUPED = {"num_attention_heads": 7, "num_key_value_heads": 1}
_WIDE = {"hidden_size": 168, **_GROUPED}  # families whose heads are always hidden_size / num_heads = 24
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0, 1.02, 1.05, 1.1, 1.2, 1.3, 1.4, 1.6, 1.8],
    "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 20.0],
}
_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 10_000.0}
_GEMMA_ROPES = {
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1_000_000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
}
_GEMMA = {
    "head_dim": 24,
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
    "sliding_window": 16,
    "query_pre_attn_scalar": 20,
    "rope_parameters": _GEMMA_ROPES,
}

CASES = (
    Case(name="gpt2", stem="GPT2"),
    Case(name="gpt2-untied-gelu", stem="GPT2", fields={"tie_word_embeddings": False, "activation_function": "gelu"}),
    Case(name="llama-biases", stem="Llama", fields={"head_dim": 24, "attention_bias": True, "mlp_bias": True}),
    Case(
        name="llama-tied-linear",
        stem="Llama",
        fields={
            "head_dim": 80,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0},
        },
    ),
    Case(
        name="llama3-float16",
        stem="Llama",
        fields={"head_dim": 24, "rope_parameters": {**_LLAMA3, "original_max_position_embeddings": 64}},
        stored_as=torch.float16,
    ),
    Case(
        name="llama-yarn-beyond-its-positions",
        stem="Llama",
        fields={
            "head_dim": 24,
            "max_position_embeddings": 85,
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 85,
                "rope_theta": 10_000.0,
            },
        },
    ),
    Case(name="mistral-window", stem="Mistral", fields={"head_dim": 80, "sliding_window": 20}, stored_as=torch.bfloat16),
    Case(
        name="qwen2-upper-windows",
        stem="Qwen2",
        fields={"hidden_size": 168, "use_sliding_window": True, "sliding_window": 17, "max_window_layers": 1},
        stored_as=torch.float16,
    ),
    Case(name="qwen3-sharded", stem="Qwen3", fields={"head_dim": 24}, stored_as=torch.bfloat16, max_shard_size="50KB"),
    Case(name="qwen3-biases-tied", stem="Qwen3", fields={"head_dim": 80, "attention_bias": True, "tie_word_embeddings": True}),
    Case(name="phi3-window", stem="Phi3", fields={**_WIDE, "sliding_window": 25}),
    Case(
        name="phi3-longrope-short",
        stem="Phi3",
        fields={**_WIDE, "rope_parameters": _LONGROPE, "original_max_position_embeddings": 325},
        max_context=325,
    ),
    Case(
        name="phi3-longrope-long",
        stem="Phi3",
        fields={**_WIDE, "rope_parameters": _LONGROPE, "original_max_position_embeddings": 16},
        shortest_prompt=17,  # transformers looks at the prompt's length, we at the context
    ),
    Case(name="gemma3-windows", stem="Gemma3", fields={**_GEMMA, "final_logit_softcapping": 20.0}),
    Case(name="gemma3-bfloat16", stem="Gemma3", fields={**_GEMMA, "tie_word_embeddings": False}, stored_as=torch.bfloat16),
    Case(name="olmo2", stem="Olmo2", fields={**_WIDE, "num_key_value_heads": 7, "attention_bias": True}),
    Case(name="olmo2-grouped-tied", stem="Olmo2", fields={**_WIDE, "tie_word_embeddings": True}, stored_as=torch.bfloat16),
)


def make_model(case: Case) -> Any:
    """Returns a float32 model whose weights are random and exactly representable in the format they will be stored in."""
    torch.manual_seed(CASES.index(case) if case in CASES else len(CASES))
    model = _model_class(case.stem)(_make_config(case)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(_random_like(name, parameter, case.stem).to(case.stored_as).float())
    return model


def save_model(case: Case, model: Any, directory: Path) -> None:
    """Writes config.json and safetensors, in the case's number format and shards."""
    copy.deepcopy(model).to(case.stored_as).save_pretrained(directory, max_shard_size=case.max_shard_size)


def _model_class(stem: str) -> Any:
    return getattr(transformers, f"{stem}LMHeadModel" if stem == "GPT2" else f"{stem}ForCausalLM")


def _make_config(case: Case) -> Any:
    tokens = {"vocab_size": VOCAB, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    if case.stem == "GPT2":
        sizes: dict[str, Any] = {"n_embd": 168, "n_head": 7, "n_layer": 3, "n_positions": 340, "n_inner": 100}
        return transformers.GPT2Config(**tokens, **(sizes | copy.deepcopy(case.fields)), attn_implementation="eager")
    sizes = {"hidden_size": 56, "intermediate_size": 100, "num_hidden_layers": 3, "max_position_embeddings": 340, **_GROUPED}
    config_class = transformers.Gemma3TextConfig if case.stem == "Gemma3" else getattr(transformers, f"{case.stem}Config")
    return config_class(**tokens, **(sizes | copy.deepcopy(case.fields)), attn_implementation="eager")


def _random_like(name: str, parameter: torch.Tensor, stem: str) -> torch.Tensor:
    noise = torch.randn_like(parameter)
    if parameter.ndim == 1:
        is_scale = "weight" in name and stem != "Gemma3"
        return (1.0 if is_scale else 0.0) + 0.3 * noise
    if "embed" in name or "wte" in name:
        return noise * 0.7
    if "wpe" in name:
        return noise * 0.3
    fan_in = parameter.shape[0] if stem == "GPT2" and "lm_head" not in name else parameter.shape[1]
    return noise * (3.0 if "lm_head" in name else 1.5) / fan_in**0.5
