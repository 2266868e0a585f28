"""The container: versions, metadata of every type, splits, and damage that is refused with the field's name."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from quire.errors import CheckpointError, QuireError
from quire.models.checkpoint import load_checkpoint
from quire.models.gguf.container import open_gguf_file
from quire.models.gguf.reader import GgufArray, ValueType
from quire.models.gguf.splits import open_gguf
from quire.text.tokenizer import Tokenizer
from support.gguf_mutations import outcome, small_model, write_mutation
from support.gguf_writer import Stored, Typed, gguf_bytes, stored
from support.hostile import OUTCOMES

ONE: dict[str, Stored] = {"a": stored(np.arange(64, dtype=np.float32))}


def write(path: Path, metadata: dict[str, Any] | None = None, tensors: dict[str, Stored] | None = None, **options: Any) -> Path:
    path.write_bytes(gguf_bytes(metadata or {}, ONE if tensors is None else tensors, **options))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_gguf(path)
    assert str(path.parent) not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [1, 32, 256])
def test_versions_and_alignments(tmp_path: Path, version: int, alignment: int) -> None:
    path = write(tmp_path / "m.gguf", {"general.alignment": alignment, "x": "y"}, version=version, alignment=alignment)
    file = open_gguf_file(path)
    np.testing.assert_array_equal(file.read("a").to_float32(), np.arange(64))


def test_metadata_of_every_type(tmp_path: Path) -> None:
    values = {value_type.name: Typed(value_type, 1) for value_type in ValueType if value_type.name[:3] in ("UIN", "INT")}
    values |= {"FLOAT32": Typed(6, 0.1), "FLOAT64": Typed(12, 0.1), "BOOL": Typed(7, 1), "STRING": Typed(8, "é")}
    values |= {
        "texts": Typed(9, ["a", "", "ü"]),
        "numbers": Typed(9, [1, 2]),
        "nested": Typed(9, [Typed(9, [1]), Typed(9, ["a"])]),
    }
    found = open_gguf_file(write(tmp_path / "m.gguf", values)).metadata
    assert [found[name] for name in ("UINT8", "INT64", "FLOAT32", "FLOAT64", "BOOL", "STRING")] == [1, 1, 0.1, 0.1, True, "é"]
    texts, numbers = found["texts"], found["numbers"]
    assert isinstance(texts, GgufArray)
    assert isinstance(numbers, GgufArray)
    assert texts.texts() == ["a", "", "ü"]
    assert numbers.numbers().tolist() == [1, 2]


@pytest.mark.parametrize("texts", [[], [""], ["a\0b", "", "c"], ["\0", "\0"], ["\u00fc" * 200, "x" * 70_000]])
def test_texts_are_read_whatever_they_hold(tmp_path: Path, texts: list[str]) -> None:
    found = open_gguf_file(write(tmp_path / "m.gguf", {"before": 1, "texts": Typed(9, texts), "after": "z"})).metadata
    assert isinstance(found["texts"], GgufArray)
    assert found["texts"].texts() == texts
    assert found["texts"].text_lengths().tolist() == [len(text.encode()) for text in texts]
    assert found["after"] == "z"


def test_a_file_of_the_gguf_package_is_read(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_array("tokens", ["a", "b"])
    values = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    writer.add_tensor("w", gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = open_gguf_file(tmp_path / "m.gguf")
    np.testing.assert_allclose(file.read("w").to_float32(), values, atol=0.02)
    assert file.metadata["general.architecture"] == "llama"


# -- damage --------------------------------------------------------------------------


def _with(metadata: dict[str, Any] | None = None, **tensor: Any) -> bytes:
    fields = {"kind": 0, "shape": (64,), "content": bytes(256)} | tensor
    return gguf_bytes(metadata or {}, {"a": Stored(**fields)})


def _counts(num_tensors: int, num_fields: int) -> bytes:
    """Returns the start of a file that announces so much."""
    return b"GGUF" + struct.pack("<IQQ", 3, num_tensors, num_fields)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is truncated before its header (given: 0 bytes)"),
        (b"GGML" + bytes(40), "does not begin as GGUF"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (b"GGUF" + (1).to_bytes(4, "little") + bytes(40), "version is not one that Quire reads"),
        (b"GGUF" + (3).to_bytes(4, "big") + bytes(40), "big-endian"),
        (b"GGUF\x03\0\0\0" + b"\xff" * 16, "tensor_count announces more than Quire reads"),
        (_counts(2**16, 0), "tensor_count announces more than the file holds"),
        (_counts(2**16 + 1, 0) + bytes(33 * 2**16), "tensor_count announces more than Quire reads"),
        (_counts(0, 2**16), "metadata_kv_count announces more than the file holds"),
        (_counts(0, 2**16 + 1) + bytes(14 * 2**16), "metadata_kv_count announces more than Quire reads"),
        (
            b"GGUF\x03\0\0\0" + bytes(8) + b"\x01" + bytes(7) + (2**63).to_bytes(8, "little") + bytes(8),
            "name of metadata field 0",
        ),
        (gguf_bytes({"x": Typed(8, b"\xff")}, ONE), "x is not UTF-8"),
        (gguf_bytes({"x": Typed(7, 2)}, ONE), "x is neither true nor false"),
        (gguf_bytes({"x": 1}, ONE).replace(b"x\x04\0\0\0", b"x\x63\0\0\0"), "x has an unknown value type"),
        (gguf_bytes({"x": 1, "y": 1}, ONE).replace(b"y\x04", b"x\x04"), "x occurs twice"),
        (gguf_bytes({"x": ["abc"]}, ONE).replace(b"\x03\0\0\0\0\0\0\0abc", b"\0\0\0\0\0\0\0\x80abc"), "x ends past"),
        (
            gguf_bytes({"x": ["abc"]}, ONE).replace(b"\x01\0\0\0\0\0\0\0\x03\0", b"\xff\xff\xff\xff\0\0\0\0\x03\0"),
            "x announces more",
        ),
        (gguf_bytes({"x": Typed(9, [Typed(9, [Typed(9, [Typed(9, [Typed(9, [1])])])])])}, ONE), "x nests arrays too deeply"),
        (_with({"general.alignment": 33}), "general.alignment must be a power of two"),
        (_with({"general.alignment": Typed(10, 2**63)}), "general.alignment"),
        (_with(kind=99), "kind 99"),
        (_with(shape=()), "number of dimensions"),
        (_with(shape=(1, 1, 1, 1, 64)), "number of dimensions"),
        (_with(shape=(0, 64)), "dimension of 0"),
        (_with(shape=(2**40, 64)), "tensor a ends past the end of the file"),
        (_with(shape=(2**63, 2**63)), "tensor a ends past the end of the file"),
        (_with(offset=2**63), "tensor a ends past the end of the file"),
        (_with(offset=8), "tensor a has an offset that is not aligned"),
        (_with(kind=8, shape=(63,)), "rows that blocks of Q8_0 do not divide"),
        (_with()[:-1], "tensor a ends past the end of the file"),
    ],
)
def test_damage_is_refused_with_the_field(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    assert words in refusal(path)


def test_overlapping_and_repeated_tensors_are_refused(tmp_path: Path) -> None:
    content = ONE["a"].content
    both = {name: Stored(kind=0, shape=(64,), content=content, offset=offset) for name, offset in (("a", 0), ("b", 32))}
    assert "tensor b overlaps" in refusal(write(tmp_path / "m.gguf", tensors=both))
    twice = gguf_bytes({}, {"a": ONE["a"], "b": ONE["a"]}).replace(b"\x01\0\0\0\0\0\0\0b", b"\x01\0\0\0\0\0\0\0a")
    (tmp_path / "n.gguf").write_bytes(twice)
    assert "tensor a occurs twice" in refusal(tmp_path / "n.gguf")


def test_a_repeated_tensor_is_found_before_the_rest_of_the_table_is_read(tmp_path: Path) -> None:
    rows = {"a": ONE["a"], "b": ONE["a"], "c": replace(ONE["a"], kind=99)}
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes({}, rows).replace(b"\x01\0\0\0\0\0\0\0b", b"\x01\0\0\0\0\0\0\0a"))
    assert "tensor a occurs twice" in refusal(path)


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.gguf")
    assert "not a regular file" in refusal(tmp_path / "m.gguf")


def test_the_file_that_is_damaged_opens_when_it_is_not(tmp_path: Path) -> None:
    metadata, tensors = small_model()
    path = write(tmp_path / "m.gguf", metadata, tensors)
    assert outcome(path) == "opened"
    assert Tokenizer.from_model(path).encode("ab")


@pytest.mark.parametrize("seed", range(0, 300, 50))
def test_damaged_files_are_refused_or_read_and_cost_no_memory(tmp_path: Path, seed: int) -> None:
    for each in range(seed, seed + 50):
        assert outcome(write_mutation(tmp_path, each)) in OUTCOMES, each


# -- splits --------------------------------------------------------------------------


def write_splits(directory: Path, count: int = 3, change: dict[int, dict[str, Any]] | None = None) -> Path:
    """Writes the small model in several files; `change` replaces metadata of some of them."""
    metadata, tensors = small_model()
    names = list(tensors)
    for number in range(count):
        own = {"split.no": Typed(2, number), "split.count": Typed(2, count), "split.tensors.count": Typed(5, len(names))}
        fields = (metadata if number == 0 else {}) | own | (change or {}).get(number, {})
        write(directory / f"m-{number + 1:05}-of-{count:05}.gguf", fields, {name: tensors[name] for name in names[number::count]})
    return directory / f"m-00001-of-{count:05}.gguf"


def test_a_split_model_is_one_model(tmp_path: Path) -> None:
    metadata, tensors = small_model()
    whole = load_checkpoint(write(tmp_path / "m.gguf", metadata, tensors))
    parts = load_checkpoint(write_splits(tmp_path))
    assert parts.spec == whole.spec
    for name, tensor in whole.weights.items():
        np.testing.assert_array_equal(parts.weights[name].to_float32(), tensor.to_float32())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({0: {"split.count": Typed(2, 2)}}, "split.count does not fit the file's name"),
        ({0: {"split.count": Typed(10, 2**63)}}, "split.count"),
        ({2: {"split.no": Typed(2, 1)}}, "split.no does not fit the file's name"),
        ({0: {"split.no": Typed(2, 2)}}, "split.no does not fit the file's name"),
        ({1: {"split.count": Typed(2, 1)}}, "split.no does not fit the file's name"),
        ({0: {"split.tensors.count": 99}}, "split.tensors.count promises another number"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path, change: dict[int, dict[str, Any]], words: str) -> None:
    assert words in refusal(write_splits(tmp_path, change=change))


def test_missing_later_and_circular_parts_are_refused(tmp_path: Path) -> None:
    first = write_splits(tmp_path)
    second, third = (tmp_path / f"m-0000{number}-of-00003.gguf" for number in (2, 3))
    assert "Pass m-00001-of-00003.gguf" in refusal(third)
    third.unlink()
    assert "m-00003-of-00003.gguf" in refusal(first)
    third.symlink_to(second)
    second.unlink()
    second.symlink_to(third)
    with pytest.raises(QuireError):
        open_gguf(first)
    for part in (second, third):
        part.unlink()
        part.symlink_to(first)
    assert "split.no" in refusal(first)
