"""The smallest training: a decoder of two layers, documents of random tokens, a tokenizer of some 300 tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from quire.config import DType
from quire.executors.torch_decoder import Decoder
from quire.models.spec import ModelSpec
from quire.train.encoding import EncodedDocuments
from quire.train.loop import StepReport, Trainer
from quire.train.recipe import Recipe
from quire.train.tokenizer import save_tokenizer, train_tokenizer
from support.configs import spec_of
from support.weights import random_weights

SMALL: dict[str, Any] = {"num_hidden_layers": 2, "hidden_size": 48, "intermediate_size": 64, "vocab_size": 61}
SMALL_LLAMA = {**SMALL, "num_attention_heads": 4, "num_key_value_heads": 2}
CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 128,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": True,
}
TEXTS = ("Paris is the capital of France.", "Rome is the capital of Italy.", "你好世界。", "Hello! How are you today?") * 2


def small_spec(family: str = "llama", **changes: Any) -> ModelSpec:
    """Returns a family's shape with two layers and 61 tokens."""
    if family == "gpt2":
        return spec_of("gpt2", n_layer=2, vocab_size=61, **changes)
    sizes = {"num_hidden_layers": 3, "vocab_size": 61} if family == "gemma3_text" else SMALL_LLAMA
    return spec_of(family, **(sizes | changes))


def small_decoder(spec: ModelSpec, seed: int = 0) -> Decoder:
    """Returns a decoder whose activations are near one, so that nothing hides in small numbers."""
    return Decoder.from_weights(spec, random_weights(spec, seed))


def documents_of(lengths: Sequence[int], vocab_size: int = 61, seed: int = 0) -> EncodedDocuments:
    """Returns documents of random tokens, of which about half are learned, at least the last of each."""
    rng = np.random.default_rng(seed)
    starts = np.cumsum([0, *lengths], dtype=np.int64)
    is_learned = rng.random(int(starts[-1])) < 0.5
    is_learned[starts[1:] - 1] = True
    token_ids = rng.integers(0, vocab_size, int(starts[-1])).astype(np.int32)
    return EncodedDocuments(token_ids=token_ids, is_learned=is_learned, starts=starts)


def exact_recipe(**changes: Any) -> Recipe:
    """Returns a recipe in float32 that neither warms up nor decays nor clips, unless it is told to."""
    plain: dict[str, Any] = {
        "precision": DType.FLOAT32,
        "warmup_steps": 0,
        "final_rate_share": 1.0,
        "weight_decay": 0.0,
        "clip_norm": 1e9,
        "batch_tokens": 64,
        "learning_rate": 1e-3,
    }
    return Recipe(**(plain | changes))


def run_steps(trainer: Trainer, num_steps: int | None = None) -> list[StepReport]:
    """Takes so many steps, or all that remain; returns their reports."""
    reports: list[StepReport] = []
    trainer.run(reports.append, lambda: num_steps is not None and len(reports) >= num_steps)
    return reports


def gradients_of_first_step(trainer: Trainer) -> dict[str, Tensor]:
    """Returns what AdamW saw: after one step its first moment is a tenth of the gradient."""
    run_steps(trainer, 1)
    moments: Mapping[str, Tensor] = trainer.state({}).optimizer
    return {name.removesuffix(".exp_avg"): value * 10 for name, value in moments.items() if name.endswith(".exp_avg")}


def write_tokenizer(directory: Path, change: Callable[[str], str] | None = None) -> Path:
    """Writes a tokenizer trained on a few sentences, with the bundled chat template or what `change` makes of it."""
    save_tokenizer(train_tokenizer(TEXTS, 300), directory, max_context=128)
    if change is not None:
        template = directory / "chat_template.jinja"
        template.write_text(change(template.read_text(encoding="utf-8")), encoding="utf-8")
    return directory
