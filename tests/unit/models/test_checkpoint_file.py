"""One safetensors file: what is correct loads without copying, what is not raises CheckpointError and nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from quire.errors import CheckpointError
from quire.models.safetensors_file import MAX_HEADER_BYTES, SafetensorsFile, open_safetensors
from quire.models.weights import SourceDType
from support.safetensors_writer import assemble, header_of, safetensors_bytes

TENSORS = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.arange(6, dtype=np.float16).reshape(2, 3),
    "c": np.arange(5, dtype=np.uint16),
    "empty": np.zeros((0, 7), np.float32),
    "scalar": np.array(3, np.float32),
}
CONTENT = b"".join(tensor.tobytes() for tensor in TENSORS.values())
VALID = safetensors_bytes(TENSORS)
F32_ROW = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}

fuzz = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _open(directory: Path, content: bytes) -> SafetensorsFile:
    path = directory / "model.safetensors"
    path.write_bytes(content)
    return open_safetensors(path)


def _refusal(directory: Path, content: bytes) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        _open(directory, content)
    message = str(caught.value)
    assert "model.safetensors" in message
    assert str(directory) not in message
    assert len(message) < 1000
    assert caught.value.next_step
    return caught.value


def test_every_tensor_comes_back_with_its_values(tmp_path: Path) -> None:
    file = _open(tmp_path, VALID)
    for name, tensor in TENSORS.items():
        assert file.read(name).shape == tensor.shape
        np.testing.assert_array_equal(file.read(name).bits, tensor)
    assert [file.read(name).dtype for name in "abc"] == [SourceDType.FLOAT32, SourceDType.FLOAT16, SourceDType.BFLOAT16]


def test_tensors_are_read_only_views_of_the_file(tmp_path: Path) -> None:
    bits = _open(tmp_path, VALID).read("a").bits
    assert not bits.flags.owndata
    assert not bits.flags.writeable


def test_tensors_outlive_the_file_object_and_its_name(tmp_path: Path) -> None:
    bits = _open(tmp_path, VALID).read("a").bits
    (tmp_path / "model.safetensors").unlink()
    assert bits.sum() == 66


@pytest.mark.parametrize("padding", range(4))
def test_badly_aligned_tensors_are_still_read_and_then_aligned(tmp_path: Path, padding: int) -> None:
    file = _open(tmp_path, assemble(header_of(TENSORS), CONTENT, padding=padding))
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(file.read(name).bits, tensor)
        assert file.read(name).bits.flags.aligned


def test_metadata_is_accepted(tmp_path: Path) -> None:
    header = {"__metadata__": {"format": "pt"}, **header_of(TENSORS)}
    assert set(_open(tmp_path, assemble(header, CONTENT)).entries) == set(TENSORS)


@pytest.mark.parametrize("num_bytes", range(8))
def test_file_without_room_for_a_header_is_refused(tmp_path: Path, num_bytes: int) -> None:
    assert f"{num_bytes} bytes" in str(_refusal(tmp_path, VALID[:num_bytes]))


@pytest.mark.parametrize("length", [10 * 10**9, MAX_HEADER_BYTES + 1, 2**63, 2**64 - 1])
def test_header_longer_than_the_format_allows_is_refused_before_reading_it(tmp_path: Path, length: int) -> None:
    error = _refusal(tmp_path, length.to_bytes(8, "little") + VALID[8:])
    assert (error.given, error.limit) == (length, MAX_HEADER_BYTES)


def test_header_longer_than_the_file_is_refused(tmp_path: Path) -> None:
    assert "longer than the file" in str(_refusal(tmp_path, (len(VALID) - 7).to_bytes(8, "little") + VALID[8:]))


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    for num_bytes in range(len(VALID)):
        _refusal(tmp_path, VALID[:num_bytes])


def test_git_lfs_pointer_is_recognized(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    assert "git lfs pull" in str(_refusal(tmp_path, pointer))


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff{}", "not valid JSON"),
        (b'{"x": NaN}', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"x": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"x": {"dtype": "F32", "dtype": "F32"}}', "twice"),
        (b'{"x": 1, "x": 2}', "twice"),
        ({"\ud800": F32_ROW}, "not valid JSON"),
        ([], "not a JSON object"),
        (7, "not a JSON object"),
        ({"__metadata__": []}, "metadata"),
        ({"__metadata__": {"a": 1}}, "metadata"),
    ],
)
def test_header_that_is_no_header_is_refused(tmp_path: Path, header: object, words: str) -> None:
    assert words in str(_refusal(tmp_path, assemble(header, CONTENT)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dtype": "F33"}, "unknown dtype"),
        ({"dtype": 4}, "unknown dtype"),
        ({"dtype": None}, "unknown dtype"),
        ({"shape": [-2]}, "impossible shape"),
        ({"shape": [2.0]}, "impossible shape"),
        ({"shape": [True, 2]}, "impossible shape"),
        ({"shape": "2"}, "impossible shape"),
        ({"shape": [1] * 8 + [2]}, "impossible shape"),
        ({"shape": [2**64]}, "impossible shape"),
        ({"shape": [2**62, 2**62]}, "do not match"),
        ({"shape": [3]}, "do not match"),
        ({"data_offsets": [0, 4]}, "do not match"),
        ({"data_offsets": [8, 0]}, "impossible data_offsets"),
        ({"data_offsets": [-8, 0]}, "impossible data_offsets"),
        ({"data_offsets": [0]}, "impossible data_offsets"),
        ({"data_offsets": [0, 8, 8]}, "impossible data_offsets"),
        ({"data_offsets": [0, 8.0]}, "impossible data_offsets"),
        ({"data_offsets": [False, 8]}, "impossible data_offsets"),
        ({"data_offsets": {}}, "impossible data_offsets"),
        ({"data_offsets": [8, 16]}, "gap"),
        ({"shape": [2**40], "data_offsets": [0, 2**42]}, "truncated"),
        ({"extra": 1}, "exactly"),
    ],
)
def test_impossible_tensor_is_refused_by_its_name(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    message = str(_refusal(tmp_path, assemble({"layers.0.weight": {**F32_ROW, **change}}, bytes(8))))
    assert words in message
    assert "layers.0.weight" in message


@pytest.mark.parametrize("row", [None, [], "F32", {}, {"dtype": "F32", "shape": [2]}])
def test_tensor_without_its_three_fields_is_refused(tmp_path: Path, row: object) -> None:
    assert "exactly dtype, shape and data_offsets" in str(_refusal(tmp_path, assemble({"x": row}, bytes(8))))


def test_overlapping_tensors_are_refused(tmp_path: Path) -> None:
    rows = {"x": F32_ROW, "y": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}
    assert "overlaps" in str(_refusal(tmp_path, assemble(rows, bytes(8))))


def test_bytes_behind_the_last_tensor_are_refused(tmp_path: Path) -> None:
    assert "belong to no tensor" in str(_refusal(tmp_path, assemble({"x": F32_ROW}, bytes(9))))


def test_unusable_dtypes_are_listed_but_not_an_error_by_themselves(tmp_path: Path) -> None:
    file = _open(tmp_path, safetensors_bytes({"ids": np.arange(3), "x": np.ones(2, np.float32)}))
    assert not file.entries["ids"].is_usable
    assert file.entries["x"].is_usable


def test_names_from_the_file_cannot_flood_the_message(tmp_path: Path) -> None:
    _refusal(tmp_path, assemble({"\u202e\n" * 50_000: {**F32_ROW, "shape": [3]}}, bytes(8)))


def test_directory_and_absent_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    for name in ("model.safetensors", "absent.safetensors"):
        with pytest.raises(CheckpointError, match=name):
            open_safetensors(tmp_path / name)


def test_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="regular file"):
        open_safetensors(tmp_path / "model.safetensors")


def _read_everything(directory: Path, content: bytes) -> bool:
    """Returns whether the file was accepted; then every usable tensor can be read, and the format's own library agrees."""
    try:
        file = _open(directory, content)
    except CheckpointError:
        return False
    with safe_open(directory / "model.safetensors", framework="numpy") as theirs:
        assert set(theirs.keys()) == set(file.entries)
        for name, entry in file.entries.items():
            assert tuple(theirs.get_slice(name).get_shape()) == entry.shape
            if entry.is_usable:
                assert file.read(name).shape == entry.shape
    return True


@fuzz
@given(content=st.binary(max_size=200))
@example(content=(2).to_bytes(8, "little") + b"{}")
def test_random_bytes_load_or_raise_checkpoint_error(tmp_path: Path, content: bytes) -> None:
    _read_everything(tmp_path, content)


@fuzz
@given(edits=st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_flipped_bytes_load_or_raise_checkpoint_error(tmp_path: Path, edits: list[tuple[int, int]]) -> None:
    content = bytearray(VALID)
    for position, value in edits:
        content[position] = value
    _read_everything(tmp_path, bytes(content))


@fuzz
@given(start=st.integers(0, len(VALID)), stop=st.integers(0, len(VALID)), piece=st.binary(max_size=12))
def test_replaced_stretches_load_or_raise_checkpoint_error(tmp_path: Path, start: int, stop: int, piece: bytes) -> None:
    _read_everything(tmp_path, VALID[: min(start, stop)] + piece + VALID[max(start, stop) :])


_ODD_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 20),
    st.integers(2**31, 2**65),
    st.floats(),
    st.sampled_from(["F32", "F16", "BF16", "I64", "BOOL", "F4", "F6_E2M3", "C64", "", "f32"]),
    st.lists(st.integers(-1, 40), max_size=4),
    st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
)


@fuzz
@given(
    header=st.dictionaries(
        st.sampled_from(["x", "y", "__metadata__", "\ud800"]),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "F4"]) | _ODD_VALUES,
                "shape": st.lists(st.integers(0, 4), max_size=3) | _ODD_VALUES,
                "data_offsets": st.lists(st.integers(0, 16).map(lambda n: 2 * n), min_size=2, max_size=2) | _ODD_VALUES,
            }
        )
        | _ODD_VALUES,
        max_size=3,
    ),
    num_bytes=st.integers(0, 40),
)
def test_random_headers_load_or_raise_checkpoint_error(tmp_path: Path, header: dict[str, Any], num_bytes: int) -> None:
    _read_everything(tmp_path, assemble(header, bytes(num_bytes)))


@fuzz
@given(shapes=st.lists(st.lists(st.integers(0, 4), max_size=4), max_size=5), dtype=st.sampled_from([np.float32, np.float16]))
def test_every_correct_file_loads(tmp_path: Path, shapes: list[list[int]], dtype: type[np.generic]) -> None:
    tensors = {f"t{index}": np.ones(shape, dtype) for index, shape in enumerate(shapes)}
    assert _read_everything(tmp_path, safetensors_bytes(tensors))
