"""Files that contradict or use `tie_word_embeddings` give the logits that transformers gives, in every family and executor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from quire.config import DType
from quire.models.checkpoint import load_checkpoint
from support.checkpoints import Case, make_model, save_model
from support.driver import make_driver

BOUND = 1e-4  # see test_parity
STEMS = ("GPT2", "Llama", "Mistral", "Qwen2", "Qwen3", "Phi3", "Gemma3", "Olmo2")
PROMPT = [3, 1, 4, 1, 5, 92, 65, 35]


@pytest.fixture(scope="module", params=STEMS)
def case(request: pytest.FixtureRequest) -> Case:
    head_dim = {"head_dim": 24} if request.param in ("Llama", "Mistral", "Qwen3", "Gemma3") else {"hidden_size": 168}
    fields = {"tie_word_embeddings": True} | ({} if request.param == "GPT2" else head_dim)
    return Case(name=f"{request.param}-tied", stem=request.param, fields=fields)


def store(case: Case, directory: Path, kept: str) -> Any:
    """Saves a tied model; then its file keeps the matrix as the head alone, or gets a head that differs. Returns its class."""
    model = make_model(case)
    save_model(case, model, directory)
    path = directory / "model.safetensors"
    tensors = load_file(path)
    embedding = next(name for name in tensors if name.endswith(("embed_tokens.weight", "wte.weight")))
    if kept == "head":
        tensors["lm_head.weight"] = tensors.pop(embedding)
    else:
        tensors["lm_head.weight"] = tensors[embedding].flip(0).contiguous() * 0.5
    save_file(tensors, path, metadata={"format": "pt"})
    return type(model)


@pytest.mark.parametrize("kept", ["head", "both"])
def test_the_stored_matrices_give_the_logits_of_transformers(case: Case, kept: str, executor_name: str, tmp_path: Path) -> None:
    theirs = store(case, tmp_path, kept).from_pretrained(tmp_path, attn_implementation="eager").eval()
    with torch.no_grad():
        expected = theirs(torch.tensor([PROMPT])).logits[0].numpy()
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.spec.is_head_tied is (kept == "head")
    actual = make_driver(executor_name, checkpoint, DType.FLOAT32).logits(PROMPT)
    assert float(np.abs(actual - expected).max() / np.abs(expected).max()) <= BOUND
