"""Digests of weight files: they follow from the content alone, and one that is remembered is never that of another content."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from quire.models import content_digest as digests
from quire.models.content_digest import MIN_REMEMBERED_BYTES, PIECE_BYTES, content_digest
from quire.models.safetensors_file import open_safetensors
from support.safetensors_writer import safetensors_bytes


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache in which files settle at once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "_SETTLED_NS", 0)
    return tmp_path / "cache/quire/digests"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    numbers = np.random.default_rng(0).standard_normal(2 * PIECE_BYTES // 4 + 7).astype(np.float32)
    path.write_bytes(safetensors_bytes({"x": numbers}))
    return path


def read(path: Path) -> tuple[bytes, int]:
    """Returns a file's digest, and the number of pieces that were read for it."""
    pieces: list[None] = []
    return content_digest(open_safetensors(path), lambda: pieces.append(None)), len(pieces)


def flip(path: Path, position: int) -> None:
    """Changes one byte and restores the modification time; returns once the file system shows another change time."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(position, os.SEEK_SET if position >= 0 else os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.usefixtures("cache")
def test_copy_has_the_digest_of_its_original(weights: Path, tmp_path: Path) -> None:
    copy = shutil.copyfile(weights, tmp_path / "copy.safetensors")
    assert read(copy)[0] == read(weights)[0]


@pytest.mark.usefixtures("cache")
def test_digest_is_read_once(weights: Path) -> None:
    first, second = read(weights), read(weights)
    assert (first[1], second[1]) == (3, 0)
    assert first[0] == second[0]


@pytest.mark.usefixtures("cache")
def test_digest_is_remembered_whatever_the_path_is_relative_to(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(weights)
    monkeypatch.chdir(weights.parent)
    assert read(Path(weights.name))[1] == 0


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("position", [-1, -PIECE_BYTES - 100, -2 * PIECE_BYTES])
def test_changed_byte_is_noticed_behind_a_restored_modification_time(weights: Path, position: int) -> None:
    before = weights.stat()
    digest, _ = read(weights)
    flip(weights, position)
    assert (weights.stat().st_mtime_ns, weights.stat().st_size) == (before.st_mtime_ns, before.st_size)
    assert read(weights)[0] != digest


def test_file_that_has_just_changed_is_read_again(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another change within the tick of the file system's clock would not be seen."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "_SETTLED_NS", 10**18)
    assert [read(weights)[1] for _ in range(2)] == [3, 3]
    assert not list((tmp_path / "cache/quire/digests").iterdir())


def test_damaged_entry_is_read_again_and_replaced(weights: Path, cache: Path) -> None:
    digest, _ = read(weights)
    (entry,) = cache.iterdir()
    for content in (b"", digest, bytes(64), entry.read_bytes()[:-1], entry.read_bytes() + b"x"):
        entry.write_bytes(content)
        assert read(weights) == (digest, 3)
        assert read(weights) == (digest, 0)


def test_entry_of_another_file_is_not_believed(weights: Path, cache: Path, tmp_path: Path) -> None:
    other = shutil.copyfile(weights, tmp_path / "other.safetensors")
    flip(other, -1)
    mine, _ = read(weights)
    (entry,) = cache.iterdir()
    read(other)
    (other_entry,) = {*cache.iterdir()} - {entry}
    shutil.copyfile(other_entry, entry)
    assert read(weights) == (mine, 3)


@pytest.mark.parametrize("obstacle", ["digests", "quire"])
def test_cache_that_refuses_costs_only_time(weights: Path, cache: Path, obstacle: str) -> None:
    place = cache if obstacle == "digests" else cache.parent
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"a file where the directory belongs")
    digest, _ = read(weights)
    assert read(weights)[0] == digest


def test_cache_keeps_a_bounded_number_of_digests(weights: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "MAX_ENTRIES", 2)
    for _ in range(4):
        flip(weights, -1)
        read(weights)
    assert len(list(cache.iterdir())) == 2
    assert read(weights)[1] == 0


def test_what_another_process_is_about_to_keep_stays_and_what_a_killed_one_left_goes(
    weights: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "MAX_ENTRIES", 1)
    cache.mkdir(parents=True)
    young, old = cache / "tmp1234.part", cache / "tmp5678.part"
    for part, hours in ((young, 23), (old, 25)):
        part.write_bytes(b"")
        os.utime(part, (0, time.time() - hours * 3600))
    read(weights)
    assert (young.exists(), old.exists()) == (True, False)
    assert len(list(cache.iterdir())) == 2


def test_small_file_leaves_no_entry(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    path.write_bytes(safetensors_bytes({"x": np.zeros(MIN_REMEMBERED_BYTES // 8, np.float32)}))
    assert [read(path)[1] for _ in range(2)] == [1, 1]
    assert not cache.exists()


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("threads", ["1", "3"])
def test_number_of_threads_changes_nothing(weights: Path, threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIRE_THREADS", threads)
    digest, _ = read(weights)
    flip(weights, -1)
    flip(weights, -1)
    monkeypatch.delenv("QUIRE_THREADS")
    assert read(weights) == (digest, 3)
