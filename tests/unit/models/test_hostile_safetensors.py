"""Damaged model directories end in a typed error that names what is wrong, or in weights, and cost no more than they justify."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from support.hostile import OUTCOMES
from support.safetensors_mutations import METHODS, outcome, small_model, write_files, write_mutation


@pytest.mark.parametrize("method", [*METHODS, None])
def test_the_model_that_is_damaged_opens_when_it_is_not(tmp_path: Path, method: str | None) -> None:
    write_files(tmp_path, small_model(method))
    assert outcome(tmp_path) == "opened"


@pytest.mark.parametrize("first", range(0, 400, 50))
def test_damaged_models_are_refused_or_read_and_cost_no_memory(tmp_path: Path, first: int) -> None:
    found: Counter[str] = Counter()
    for seed in range(first, first + 50):
        result = outcome(write_mutation(tmp_path, seed))
        assert result in OUTCOMES, seed
        found[result] += 1
    assert found["CheckpointError"] > 15
    assert found["opened"] < 25


def test_a_seed_makes_the_same_damage_every_time(tmp_path: Path) -> None:
    for seed in range(20):
        twins = [write_mutation(tmp_path / name, seed) for name in ("one", "two")]
        contents = [{path.name: path.read_bytes() for path in twin.iterdir() if path.is_file()} for twin in twins]
        assert contents[0] == contents[1]
