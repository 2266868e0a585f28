"""Parses untrusted JSON: what the standard parser silently accepts is refused."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def parse_json(content: bytes) -> Any:
    """Returns the value in UTF-8 bytes.

    Raises ValueError with a short reason for bad text or syntax, a name that occurs twice in one object or is half a
    character, NaN and infinities, numbers of thousands of digits, and nesting too deep to follow.
    """
    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=_unique_fields, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("objects are nested too deeply") from error


def shorten(text: str, max_chars: int = 80) -> str:
    """Returns at most `max_chars` characters of a text that came from a file."""
    return text if len(text) <= max_chars else text[: max_chars - 3] + "..."


def _unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    "".join(fields).encode()  # raises UnicodeEncodeError, a ValueError, for half a surrogate pair
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
