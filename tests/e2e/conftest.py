"""One tiny Llama with a 30-token tokenizer, written by `transformers` and read through the real loader."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

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
