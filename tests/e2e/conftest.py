"""One tiny Llama with a 30-token tokenizer, written by `transformers` and read through the real loader, and an `LLM` of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers

from quire import LLM
from support.fake_engine import VOCAB_SIZE, write_tokenizer


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny-llama")
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(3)
    config = transformers.LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.4,
        bos_token_id=None,
        eos_token_id=None,
        tie_word_embeddings=False,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(directory)
    write_tokenizer(directory)
    return directory


@pytest.fixture(scope="session")
def endless_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model without an end-of-sequence token and with room for a very long answer."""
    directory = tmp_path_factory.mktemp("endless") / "model"
    shutil.copytree(tiny_model, directory)
    for name, change in (("config.json", {"max_position_embeddings": 200_000}), ("tokenizer_config.json", {"eos_token": None})):
        path = directory / name
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    return directory


@pytest.fixture(scope="module")
def shared_llm(tiny_model: Path) -> Iterator[LLM]:
    with LLM(tiny_model, executor="reference", kv_memory="64MiB") as opened:
        yield opened


@pytest.fixture
def llm(shared_llm: LLM) -> Iterator[LLM]:
    """The model of a module's tests, each of which leaves it without requests and with every block free."""
    yield shared_llm
    core = shared_llm.core
    core.scheduler.manager.check()
    pool = core.scheduler.manager.pool
    assert (pool.num_free, core.integrity_errors, core.has_work) == (pool.num_blocks, [], False)
