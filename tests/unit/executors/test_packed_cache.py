"""Packed weights on disk: the same bits as without them, and never a wrong weight or a failed start, whatever the file holds."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from quire.config import DType, KVFormat, Quantize
from quire.executors import packed_cache
from quire.executors.native import NativeExecutor, available_isas
from quire.executors.options import ExecutorOptions
from quire.executors.packed_cache import SUFFIX
from quire.executors.protocol import Float32Array, StepBatch, kv_layout
from quire.models.checkpoint import load_checkpoint
from quire.models.spec import ModelSpec
from quire.models.weights import SourceTensor, Weights
from support.configs import CONFIGS, spec_of
from support.safetensors_writer import safetensors_bytes
from support.stored import stored_tensors
from support.weights import random_weights

pytestmark = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")

FORMATS = [
    (DType.FLOAT32, Quantize.NONE),
    (DType.BFLOAT16, Quantize.NONE),
    (DType.FLOAT32, Quantize.INT8),
    (DType.BFLOAT16, Quantize.INT4),
]


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def build(spec: ModelSpec, directory: Path | None, *, seed: int = 0, **changes: Any) -> NativeExecutor:
    options: dict[str, Any] = {"layout": kv_layout(spec, 32, KVFormat.FLOAT32), "num_blocks": 4, "dtype": DType.FLOAT32} | changes
    on_progress = options.pop("on_progress", None)
    return NativeExecutor(spec, random_weights(spec, seed), ExecutorOptions(packed_cache=directory, **options), on_progress)


def logits_of(executor: NativeExecutor) -> Float32Array:
    rows = np.arange(40, dtype=np.int32)
    table, last = np.arange(2, dtype=np.int32)[None], rows[-2:]
    bounds, lens = np.array([0, 40], np.int32), np.array([40], np.int32)
    return executor.run(
        StepBatch(
            token_ids=rows % 7,
            positions=rows,
            query_start=bounds,
            context_lens=lens,
            block_tables=table,
            slot_mapping=rows,
            sample_rows=last,
        )
    )


def same_bits(found: NativeExecutor, expected: NativeExecutor) -> bool:
    return bool((logits_of(found).view(np.uint32) == logits_of(expected).view(np.uint32)).all())


def files_in(directory: Path) -> list[Path]:
    return sorted(directory.iterdir())


@pytest.fixture
def spec() -> ModelSpec:
    return spec_of("llama")


@pytest.fixture
def filled(spec: ModelSpec, tmp_path: Path) -> Path:
    build(spec, tmp_path)
    (file,) = files_in(tmp_path)
    return file


@pytest.fixture
def no_packing(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Lets nothing but norms and biases come from the checkpoint, once it is called."""

    def forbid() -> None:
        original = NativeExecutor._pack

        def only_vectors(self: NativeExecutor, weights: Any, on_progress: Any) -> None:
            assert all(tensor.bits.ndim == 1 or name == "position.weight" for name, tensor in weights.items())
            original(self, weights, on_progress)

        monkeypatch.setattr(NativeExecutor, "_pack", only_vectors)

    return forbid


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize(("dtype", "quantize"), FORMATS)
def test_second_start_has_the_same_bits(
    family: str, dtype: DType, quantize: Quantize, tmp_path: Path, no_packing: Callable[[], None]
) -> None:
    spec = spec_of(family)
    words: dict[str, Any] = {"dtype": dtype, "quantize": quantize}
    without, first = build(spec, None, **words), build(spec, tmp_path / "new" / "cache", **words)
    no_packing()
    second = build(spec, tmp_path / "new" / "cache", threads=2, **words)
    assert same_bits(first, without)
    assert same_bits(second, without)


def test_progress_reaches_its_end_both_times(spec: ModelSpec, tmp_path: Path) -> None:
    for _ in range(2):
        seen: list[tuple[int, int]] = []
        build(spec, tmp_path, on_progress=lambda done, total, seen=seen: seen.append((done, total)))
        assert seen
        assert seen[-1][0] == seen[-1][1]


def test_other_weights_formats_and_sizes_have_other_files(spec: ModelSpec, tmp_path: Path) -> None:
    for dtype, quantize in FORMATS:
        build(spec, tmp_path, dtype=dtype, quantize=quantize)
    build(spec, tmp_path, seed=1)
    assert len(files_in(tmp_path)) == len(FORMATS) + 1


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def lengthen(file: Path) -> None:
    with file.open("ab") as opened:
        opened.write(b"\0")


def empty(file: Path) -> None:
    os.truncate(file, 0)


def flip(position: int) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[position] ^= 1
        file.write_bytes(content)

    return damage


def be_absurd(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[16:24] = b"\xff" * 8
    file.write_bytes(content)


DAMAGES = {
    "cut": cut,
    "longer": lengthen,
    "empty": empty,
    "magic": flip(0),
    "version": flip(8),
    "absurd lengths": be_absurd,
    "key": flip(45),
    "checksum": flip(80),
    "first weight": flip(4096),
    "some weight": flip(100_000),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_file_is_told_and_written_again(
    damage: Callable[[Path], None], spec: ModelSpec, filled: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = filled.read_bytes()
    damage(filled)
    with caplog.at_level(logging.WARNING, "quire"):
        assert same_bits(build(spec, filled.parent), build(spec, None))
    assert "are not used" in caplog.text
    assert str(filled.parent) not in caplog.text
    assert filled.read_bytes() == whole
    assert files_in(filled.parent) == [filled]


def test_file_of_another_key_is_a_miss(spec: ModelSpec, filled: Path, caplog: pytest.LogCaptureFixture) -> None:
    build(spec, filled.parent, seed=1)
    (other,) = set(files_in(filled.parent)) - {filled}
    shutil.copy(other, filled)
    with caplog.at_level(logging.WARNING, "quire"):
        assert same_bits(build(spec, filled.parent), build(spec, None))
    assert "another format or model" in caplog.text


def test_something_else_in_its_place_is_no_error(spec: ModelSpec, filled: Path, caplog: pytest.LogCaptureFixture) -> None:
    filled.unlink()
    filled.mkdir()
    assert same_bits(build(spec, filled.parent), build(spec, None))
    assert "are not kept" in caplog.text
    assert files_in(filled.parent) == [filled]


def test_a_directory_that_cannot_be_made_is_told(spec: ModelSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert same_bits(build(spec, tmp_path / "file" / "cache"), build(spec, None))
    assert "are not kept" in caplog.text


@pytest.mark.parametrize("refuses", ["quire.executors.packed_cache._padded", "quire.files.os.fsync", "quire.files.Path.replace"])
def test_full_disk_leaves_nothing_behind(
    refuses: str, spec: ModelSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(refuses, refuse)
    executor = build(spec, tmp_path)
    monkeypatch.undo()
    assert same_bits(executor, build(spec, None))
    assert "No space left" in caplog.text
    assert files_in(tmp_path) == []


def test_too_little_room_is_seen_before_writing(
    spec: ModelSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quire.executors.packed_cache.shutil.disk_usage", lambda _: Usage(1, 1, 0))
    build(spec, tmp_path)
    assert "of disk" in caplog.text
    assert files_in(tmp_path) == []


def test_the_longest_unused_files_go_first(spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_cache, "MAX_FILES", 2)
    ages: dict[int, Path] = {}
    for seed in range(2):
        build(spec, tmp_path, seed=seed)
        (ages[seed],) = set(files_in(tmp_path)) - set(ages.values())
        os.utime(ages[seed], (1000 + seed, 1000 + seed))
    build(spec, tmp_path, seed=0)  # used again
    build(spec, tmp_path, seed=2)
    assert ages[0].exists()
    assert not ages[1].exists()


def test_bytes_are_capped_but_the_newest_stays(spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_cache, "MAX_BYTES", 1)
    build(spec, tmp_path)
    build(spec, tmp_path, seed=1)
    assert len(files_in(tmp_path)) == 1


def test_rests_of_killed_starts_go_and_other_files_stay(spec: ModelSpec, tmp_path: Path) -> None:
    old, young, foreign = (tmp_path / name for name in (f"a{SUFFIX}.part", f"b{SUFFIX}.part", "notes.txt"))
    for path in (old, young, foreign):
        path.write_bytes(b"")
    for path in (old, foreign):
        os.utime(path, (1000, 1000))
    build(spec, tmp_path)
    assert not old.exists()
    assert young.exists()
    assert foreign.exists()


def test_vectors_follow_the_checkpoint(spec: ModelSpec, tmp_path: Path) -> None:
    """A file holds matrices alone: what the checkpoint says of norms counts, even under one fingerprint."""
    build(spec, tmp_path)
    weights = random_weights(spec)
    doubled = {
        name: SourceTensor(dtype=tensor.dtype, bits=tensor.bits * np.float32(2)) if name == "final_norm.weight" else tensor
        for name, tensor in weights.items()
    }
    options: dict[str, Any] = {"layout": kv_layout(spec, 32, KVFormat.FLOAT32), "num_blocks": 4, "dtype": DType.FLOAT32}
    changed = Weights(doubled, weights.fingerprint)
    assert same_bits(
        NativeExecutor(spec, changed, ExecutorOptions(packed_cache=tmp_path, **options)),
        NativeExecutor(spec, changed, ExecutorOptions(**options)),
    )


def test_copy_of_a_model_reads_what_was_packed_for_the_original(spec: ModelSpec, tmp_path: Path) -> None:
    original, packed = tmp_path / "original", tmp_path / "packed"
    original.mkdir()
    (original / "config.json").write_text(json.dumps(CONFIGS["llama"]))
    (original / "model.safetensors").write_bytes(safetensors_bytes(stored_tensors("llama")))
    copy = shutil.copytree(original, tmp_path / "copy", copy_function=shutil.copyfile)
    options = ExecutorOptions(
        layout=kv_layout(spec, 32, KVFormat.FLOAT32), num_blocks=4, dtype=DType.FLOAT32, packed_cache=packed
    )
    found = [NativeExecutor(spec, load_checkpoint(directory).weights, options) for directory in (original, copy)]
    assert len(files_in(packed)) == 1
    assert same_bits(*found)
