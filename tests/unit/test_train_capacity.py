"""What training takes is compared with the machine before a tokenizer, a weight or a batch is made."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quire.environment import Memory
from quire.errors import ConfigError
from quire.train import setup
from quire.train.capacity import require_training_memory
from quire.train.recipe import Job, OptimizerKind, Recipe
from quire.train.run import start_run
from quire.units import GIB
from support.configs import spec_of, with_ffn
from support.train_world import CONFIG

SPEC = spec_of("llama")
LARGE = with_ffn(
    replace(SPEC, hidden_size=4096, num_heads=32, num_kv_heads=8, head_dim=128, layers=SPEC.layers[:1] * 32), size=14_336
)


def memory(gib: float) -> Memory:
    return Memory(total_bytes=int(gib * GIB), available_bytes=int(gib * GIB))


@pytest.mark.parametrize(
    ("recipe", "advice"),
    [
        (Recipe(batch_tokens=1_000_000_000), "--batch-tokens"),
        (Recipe(batch_tokens=1_000_000, accumulate=2_000_000_000), "--accumulate"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_with_one_that_does(recipe: Recipe, advice: str) -> None:
    with pytest.raises(ConfigError, match="training needs more memory than is available") as caught:
        require_training_memory(SPEC, recipe, memory(16))
    assert caught.value.limit == "16.0 GiB available"
    option, value = re.findall(r"--([a-z-]+) (\d+)", caught.value.next_step)[0]
    assert f"--{option}" == advice
    changes: dict[str, Any] = {option.replace("-", "_"): int(value)}
    require_training_memory(SPEC, replace(recipe, **changes), memory(16))


@pytest.mark.parametrize(("optimizer", "copies"), [(OptimizerKind.ADAMW, 4), (OptimizerKind.MUON, 3)])
def test_weights_gradients_and_moments_are_counted(optimizer: OptimizerKind, copies: int) -> None:
    recipe = Recipe(batch_tokens=1, optimizer=optimizer)
    num_weights = 32 * (4096 * (4096 * 2 + 1024 * 2) + 3 * 4096 * 14_336)
    with pytest.raises(ConfigError, match="Train a smaller shape"):
        require_training_memory(LARGE, recipe, memory(4 * copies * num_weights / GIB - 0.5))
    require_training_memory(LARGE, recipe, memory(4 * copies * num_weights / GIB + 0.5))


def test_an_unknown_machine_and_another_device_refuse_nothing() -> None:
    require_training_memory(LARGE, Recipe(), None)
    require_training_memory(LARGE, Recipe(device="cuda"), memory(1))


@pytest.mark.parametrize(
    ("job", "shape", "words"),
    [
        ({"vocab_size": 100_000_000_000}, {}, "larger than the limit"),
        ({"max_context": 10**12}, {}, "max_context exceeds the limit"),
        ({}, {"num_hidden_layers": 1024, "intermediate_size": 1_048_576, "hidden_size": 65_536}, "Train a smaller shape"),
    ],
)
def test_a_size_that_cannot_be_trained_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: dict[str, Any], shape: dict[str, Any], words: str
) -> None:
    monkeypatch.setattr(setup, "read_memory", lambda: memory(16))
    (tmp_path / "text.txt").write_text("a text")
    (tmp_path / "shape.json").write_text(json.dumps(CONFIG | shape))
    asked = Job(data=(str(tmp_path / "text.txt"),), config=str(tmp_path / "shape.json"), **job)
    with pytest.raises(ConfigError, match=words):
        start_run(asked, Recipe(), tmp_path / "out", lambda _: None)
    assert not (tmp_path / "out").exists()


def test_a_fresh_model_needs_no_token_ids_of_the_shape_it_copies(tmp_path: Path) -> None:
    (tmp_path / "shape.json").write_text(json.dumps(CONFIG | {"vocab_size": 200_000, "eos_token_id": 151_643}))
    setup.check_shape(Job(data=(), config=str(tmp_path / "shape.json")), Recipe())
