"""Importance on disk: found again, told apart by weights and tokens, and measured again where the file is damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quire.executors.native import available_isas
from quire.models.checkpoint import Checkpoint
from quire.quantize import importance
from quire.quantize.importance import Importance, find_importance
from support.configs import spec_of
from support.weights import random_weights

pytestmark = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")
PIECES = [[1, 2, 3, 4]]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(importance, "cache_directory", lambda: tmp_path)
    return tmp_path / "importance"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of tokens of every measurement that is made."""
    calls: list[int] = []
    measure = importance.measure_importance

    def counted(*arguments: object) -> Importance:
        calls.append(len(PIECES))
        return measure(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(importance, "measure_importance", counted)
    return calls


def checkpoint_of(seed: int = 0) -> Checkpoint:
    spec = spec_of("llama")
    return Checkpoint(directory=Path("nowhere"), spec=spec, weights=random_weights(spec, seed), model_context=spec.max_context)


def same(first: Importance, second: Importance) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def test_a_second_time_nothing_is_measured(cache: Path, measured: list[int]) -> None:
    first = find_importance(checkpoint_of(), PIECES, 1)
    assert same(find_importance(checkpoint_of(), PIECES, 1), first)
    assert len(measured) == 1
    assert len(list(cache.iterdir())) == 1


def test_other_weights_and_other_tokens_are_measured(cache: Path, measured: list[int]) -> None:
    for checkpoint, pieces in ((checkpoint_of(), PIECES), (checkpoint_of(1), PIECES), (checkpoint_of(), [[1, 2], [3, 4]])):
        find_importance(checkpoint, pieces, 1)
    assert len(measured) == len(list(cache.iterdir())) == 3


@pytest.mark.parametrize("content", [b"", b"x" * 200, None])
def test_a_damaged_entry_is_measured_again_and_replaced(cache: Path, measured: list[int], content: bytes | None) -> None:
    first = find_importance(checkpoint_of(), PIECES, 1)
    [entry] = cache.iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if content is None else content)
    assert same(find_importance(checkpoint_of(), PIECES, 1), first)
    assert len(measured) == 2
    assert entry.read_bytes() == whole


@pytest.mark.usefixtures("cache")
def test_an_entry_about_another_shape_is_not_believed(measured: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importance, "_key", lambda *_: b"same")
    find_importance(checkpoint_of(), PIECES, 1)
    spec = replace(spec_of("llama"), hidden_size=112)
    other = Checkpoint(directory=Path("nowhere"), spec=spec, weights=random_weights(spec), model_context=spec.max_context)
    found = find_importance(other, PIECES, 1)
    assert len(measured) == 2
    assert found["layers.0.attn.q.weight"].shape == (112,)


def test_a_directory_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "importance").write_text("a file")
    monkeypatch.setattr(importance, "cache_directory", lambda: tmp_path)
    assert find_importance(checkpoint_of(), PIECES, 1)
