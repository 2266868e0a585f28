"""Values as users pass them: which count as an integer, a number or a switch, and how an error shows any of them.

NumPy's scalars count as Python's do, and become Python's. True and False are never numbers; NaN and infinities lie outside of
every range.
"""

from __future__ import annotations

import operator
import reprlib
from collections.abc import Set
from numbers import Integral, Real
from pathlib import Path

MAX_SHOWN_CHARS = 60
_MAX_SHOWN_BITS = 128
_PLAIN = (bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, Set, Integral, Real)


def as_int(value: object) -> int | None:
    """Returns a Python or NumPy integer as a Python one; None for anything else, bools included."""
    if type(value) is int:  # nearly always, and told in a tenth of the time
        return value
    if isinstance(value, bool) or not isinstance(value, Integral):
        return None
    return operator.index(value)


def as_number(value: object) -> int | float | None:
    """Returns a Python or NumPy integer or float as a Python one; None for anything else, bools included."""
    if type(value) is float or type(value) is int:
        return value
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    if isinstance(value, Integral):
        return operator.index(value)
    try:
        return float(value)
    except OverflowError:  # a fraction beyond every float
        return None


def as_bool(value: object) -> bool | None:
    """Returns True or False, Python's or NumPy's; None for anything else."""
    if isinstance(value, bool):
        return value
    from numpy import bool_

    return bool(value) if isinstance(value, bool_) else None


def is_unicode(text: str) -> bool:
    """Returns whether a text can be written as UTF-8: a lone half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(value: object) -> str:
    """Returns what an error says was given: a plain value as Python writes it, shortened, and the kind of any other object."""
    if value is None or (isinstance(value, _PLAIN) or type(value).__module__ == "numpy"):
        return _shortened(value)
    return f"an object of type {type(value).__name__}"


def shown_utf8_fault(error: UnicodeDecodeError, offset: int = 0) -> str:
    """Returns which byte is no UTF-8 and where; `offset` bytes came before what was decoded."""
    return f"byte 0x{error.object[error.start]:02x} at offset {offset + error.start}"


def utf8_fault_of(path: Path) -> str | None:
    """Returns the same for the first such byte of a file; None where all of it is UTF-8.

    No character spans two lines, and a decoder of text files tells positions within a piece of the file only.
    """
    offset = 0
    with path.open("rb") as lines:
        for line in lines:
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return shown_utf8_fault(error, offset)
            offset += len(line)
    return None


def _shortened(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > _MAX_SHOWN_BITS:
        return f"an integer of {value.bit_length()} bits"
    writer = reprlib.Repr()
    writer.maxstring = writer.maxother = writer.maxlong = MAX_SHOWN_CHARS
    try:
        text = writer.repr(value)
    except Exception:  # a container may hold anything, such as integers that are too long for Python to write down
        return f"{type(value).__name__}, too long to be shown"
    text = " ".join(text.split()).encode(errors="backslashreplace").decode()
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[: MAX_SHOWN_CHARS - 3]}..."
