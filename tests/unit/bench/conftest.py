"""One tiny shape with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quire.bench.random_model import random_checkpoint
from quire.models.checkpoint import Checkpoint

TINY = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="session")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "config.json"
    path.write_text(json.dumps(TINY))
    return path


@pytest.fixture(scope="session")
def checkpoint(config_file: Path) -> Checkpoint:
    return random_checkpoint(config_file)
