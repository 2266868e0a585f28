"""Values as users pass them: NumPy's scalars count as Python's, and an error can show anything."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.values import MAX_SHOWN_CHARS, as_bool, as_int, as_number, shown, shown_utf8_fault, utf8_fault_of

NEVER_NUMBERS = [None, True, False, np.True_, "1", b"1", [1], {}, np.array(1), np.array([1]), 1j, object()]


@pytest.mark.parametrize("kind", [int, np.int8, np.uint8, np.int64, np.uint64])
def test_integers_become_pythons(kind: Any) -> None:
    assert (as_int(kind(7)), type(as_int(kind(7)))) == (7, int)
    assert (as_number(kind(7)), type(as_number(kind(7)))) == (7, int)
    assert as_bool(kind(1)) is None


@pytest.mark.parametrize("kind", [float, np.float16, np.float32, np.float64])
def test_floats_become_pythons(kind: Any) -> None:
    assert (as_number(kind(0.5)), type(as_number(kind(0.5)))) == (0.5, float)
    assert as_int(kind(2)) is None


@pytest.mark.parametrize("value", NEVER_NUMBERS)
def test_what_is_no_number_is_none(value: object) -> None:
    assert as_int(value) is None
    assert as_number(value) is None


def test_a_fraction_beyond_every_float_is_no_number() -> None:
    assert as_number(Fraction(1, 4)) == 0.25
    assert as_number(Fraction(10**400, 3)) is None


def test_switches_are_pythons_or_numpys() -> None:
    assert (as_bool(True), as_bool(np.False_), as_bool("yes"), as_bool(None)) == (True, False, None, None)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (5, "5"),
        (True, "True"),
        (float("nan"), "nan"),
        ("a", "'a'"),
        ("\ud800", r"'\ud800'"),
        (b"\xff", r"b'\xff'"),
        ([1, "b"], "[1, 'b']"),
        (np.int64(3), "np.int64(3)"),
        (object(), "an object of type object"),
        (10**5000, "an integer of 16610 bits"),
        ([10**5000], "list, too long to be shown"),
    ],
    ids=shown,
)
def test_a_value_is_shown_as_python_writes_it(value: object, text: str) -> None:
    assert shown(value) == text


class _Unwritable(list[int]):
    def __repr__(self) -> str:
        raise RuntimeError("no")


ANYTHING = st.recursive(
    st.none() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda part: st.lists(part) | st.dictionaries(st.text(), part),
)


@given(ANYTHING)
def test_anything_is_shown_in_one_short_line(value: object) -> None:
    text = shown(value)
    assert 0 < len(text) <= MAX_SHOWN_CHARS
    assert len(text.splitlines()) == 1
    text.encode()


def test_what_cannot_be_written_is_shown_by_its_kind() -> None:
    assert "_Unwritable" in shown(_Unwritable())


@pytest.mark.parametrize("before", [b"", "caf\u00e9\n".encode(), b"line\n" * 5000])
def test_the_first_byte_of_a_file_that_is_not_utf_8_is_found(tmp_path: Path, before: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(before + b"ab\xff\xfe\n")
    assert utf8_fault_of(path) == f"byte 0xff at offset {len(before) + 2}"
    path.write_bytes(before)
    assert utf8_fault_of(path) is None


def test_a_fault_counts_from_the_start_of_the_stream() -> None:
    with pytest.raises(UnicodeDecodeError) as caught:
        b"a\x80".decode()
    assert shown_utf8_fault(caught.value, 10) == "byte 0x80 at offset 11"
