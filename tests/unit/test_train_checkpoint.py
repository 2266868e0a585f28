"""A saved state: it comes back bit for bit, and whatever happens while it is written, there is a whole one."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from quire.errors import CheckpointError
from quire.train.checkpoint import TrainingState, check_identity, load_state, save_state

IDENTITY = {"training data": "abc", "recipe": '{"seed": 1, "steps": 5}'}


def state_at(step: int) -> TrainingState:
    generator = torch.Generator().manual_seed(step)
    return TrainingState(
        step=step,
        tokens=64 * step,
        seconds=0.1 * step,
        identity=IDENTITY,
        model={"embed.weight": torch.randn(5, 3, generator=generator), "head.weight": torch.randn(3, 5, generator=generator).T},
        optimizer={
            "embed.weight.exp_avg": torch.randn(5, 3, generator=generator),
            "embed.weight.step": torch.tensor(float(step)),
        },
    )


def assert_holds(path: Path, step: int) -> None:
    found, expected = load_state(path, "cpu"), state_at(step)
    assert (found.step, found.tokens, found.seconds) == (expected.step, expected.tokens, expected.seconds)
    assert dict(found.identity) == IDENTITY
    for ours, theirs in ((found.model, expected.model), (found.optimizer, expected.optimizer)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.safetensors"


def test_a_state_comes_back_bit_for_bit(path: Path) -> None:
    save_state(state_at(3), path)
    assert_holds(path, 3)
    save_state(state_at(4), path)
    assert_holds(path, 4)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("broken", ["pathlib.Path.replace", "os.fsync"])
def test_a_crash_before_the_new_state_has_its_name_leaves_the_old_one(
    path: Path, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise SystemExit("killed")

    save_state(state_at(1), path)
    with monkeypatch.context() as patch:
        patch.setattr(broken, crash)
        with pytest.raises(SystemExit):
            save_state(state_at(2), path)
    assert_holds(path, 1)
    save_state(state_at(3), path)  # over what the crash left behind
    assert_holds(path, 3)


def test_a_full_disk_is_reported_and_leaves_the_old_state(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    save_state(state_at(1), path)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", refuse)
        with pytest.raises(CheckpointError, match=r"cannot be written .*No space left.*Free some space"):
            save_state(state_at(2), path)
    assert_holds(path, 1)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_missing_truncated_or_foreign_file_is_refused(path: Path) -> None:
    with pytest.raises(CheckpointError, match="the training state cannot be read"):
        load_state(path, "cpu")
    save_state(state_at(1), path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="the training state cannot be read"):
        load_state(path, "cpu")
    save_file({"model.embed.weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="quire-training-1"):
        load_state(path, "cpu")


def test_what_differs_is_shown_and_nothing_else() -> None:
    check_identity(state_at(1), IDENTITY)
    with pytest.raises(CheckpointError, match=r"its recipe has changed \(given: seed 2; limit: seed 1\)"):
        check_identity(state_at(1), IDENTITY | {"recipe": '{"seed": 2, "steps": 5}'})
    with pytest.raises(CheckpointError, match=r"its training data has changed \(given: xyz; limit: abc\)"):
        check_identity(state_at(1), IDENTITY | {"training data": "xyz"})
    with pytest.raises(CheckpointError, match="its validation data"):
        check_identity(state_at(1), IDENTITY | {"validation data": "new"})
