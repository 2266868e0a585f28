"""The weights that tests fetch are kept for the next run, and fetched once even if several processes want them."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TextIO

import pytest

from support import real_weights


def test_fetched_weights_outlive_the_cache_of_a_run() -> None:
    assert Path(os.environ["XDG_CACHE_HOME"]) not in real_weights.KEPT.parents


def test_what_another_process_fetched_meanwhile_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "kept" / "weights.gguf"

    def wait_for_the_other(lock: TextIO, operation: int) -> None:
        assert (Path(lock.name).parent, operation) == (kept.parent, fcntl.LOCK_EX)
        kept.write_bytes(b"weights")

    monkeypatch.setattr(fcntl, "flock", wait_for_the_other)
    monkeypatch.setattr(real_weights, "_fetch", lambda _: pytest.fail("fetched again"))
    assert real_weights.obtain(kept) is None


def test_weights_that_cannot_be_fetched_are_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Path] = []
    monkeypatch.setattr(real_weights, "_fetch", lambda path: tried.append(path) or "no network")
    assert [real_weights.obtain(tmp_path / "weights.gguf") for _ in range(2)] == ["no network"] * 2
    assert len(tried) == 1
