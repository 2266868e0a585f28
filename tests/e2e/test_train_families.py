"""Every family is trained from a config.json, written, and gone on from with a shorter context."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from quire.executors.torch_decoder import Decoder
from quire.models.checkpoint import load_checkpoint
from quire.train.recipe import Job, Recipe
from quire.train.run import start_run
from support.configs import CONFIGS
from support.train_world import TEXTS

MAX_CONTEXT = 64


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


def trained(output: Path, **job: Any) -> Decoder:
    text = output.parent / "text.txt"
    text.write_text(" ".join(TEXTS), encoding="utf-8")
    recipe = Recipe(steps=2, batch_tokens=128, warmup_steps=0)
    run = start_run(Job(data=(str(text),), **job), recipe, output, lambda _: None)
    assert run.train(lambda _: None, lambda: False)
    run.export(torch.float32)
    return run.trainer.decoder


@pytest.mark.parametrize("family", list(CONFIGS))
def test_a_family_is_trained_written_and_gone_on_from(family: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[family]))
    config = str(tmp_path / "config.json")
    decoder = trained(tmp_path / "fresh", config=config, vocab_size=300, max_context=MAX_CONTEXT)
    checkpoint = load_checkpoint(tmp_path / "fresh")
    assert checkpoint.spec == decoder.spec
    assert checkpoint.spec.max_context == MAX_CONTEXT
    for name, value in decoder.state_dict().items():
        torch.testing.assert_close(torch.tensor(checkpoint.weights[name].to_float32()), value, rtol=0, atol=2.0**-23)

    trained(tmp_path / "tuned", model=str(tmp_path / "fresh"), max_context=48)
    has_learned_positions = family == "gpt2"  # its table keeps its rows
    assert load_checkpoint(tmp_path / "tuned").spec.max_context == (MAX_CONTEXT if has_learned_positions else 48)
