"""A file under its own name is always whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from quire.files import PART, replacing


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_file_takes_the_place_of_the_old_one(tmp_path: Path, is_shared: bool) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"old")
    with replacing(path, is_shared=is_shared) as part:
        part.write_bytes(b"new")
        assert part.name.endswith(PART)
        assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["state"]
    assert path.read_bytes() == b"new"


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"old")

    def fail() -> None:
        with replacing(path) as part:
            part.write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [each.name for each in tmp_path.iterdir()] == ["state"]
    assert path.read_bytes() == b"old"


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "entry"
    with replacing(path, is_shared=True) as first, replacing(path, is_shared=True) as second:
        assert first != second
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert path.read_bytes() == b"first"  # the outer block ends last
    assert [each.name for each in tmp_path.iterdir()] == ["entry"]
