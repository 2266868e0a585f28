"""What a chat template may be given: plain copies of the caller's values, so that it meets no object with behavior.

The forms are those that transformers accepts: JSON values and tuples, NumPy scalars, data classes and pydantic models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from quire.errors import TemplateError

MAX_INPUT_DEPTH = 64


def plain_copy(value: Any, depth: int = MAX_INPUT_DEPTH) -> Any:
    """Returns a copy made of plain dicts, lists, tuples and scalars only; raises TemplateError for anything else."""
    if depth == 0:
        raise TemplateError("messages or tools are nested too deeply", limit=MAX_INPUT_DEPTH, next_step="Flatten them.")
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, (int, float)):
        return int.__int__(value) if isinstance(value, int) else float.__float__(value)
    unpacked = mapping_of(value)
    if unpacked is not None:
        return {_plain_key(key): plain_copy(item, depth - 1) for key, item in unpacked.items()}
    if isinstance(value, (list, tuple)):
        copies = [plain_copy(item, depth - 1) for item in value]
        return copies if isinstance(value, list) else tuple(copies)
    if isinstance(value, np.generic):
        return plain_copy(value.item(), depth - 1)
    raise _not_plain(value)


def mapping_of(value: Any) -> Mapping[Any, Any] | None:
    """Returns a mapping as it is and the fields of a data class or a pydantic model, None for any other value."""
    if isinstance(value, (dict, Mapping)):  # nearly always a dict, told in a tenth of the time
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    dump = getattr(value, "model_dump", None)
    dumped = dump() if callable(dump) and not isinstance(value, type) else None
    return dumped if isinstance(dumped, Mapping) else None


def _plain_key(key: Any) -> Any:
    if key is None or isinstance(key, (bool, int, float, str)):
        return plain_copy(key)
    raise _not_plain(key)


def _not_plain(value: object) -> TemplateError:
    return TemplateError(
        "messages and tools must hold JSON values", given=type(value).__name__, next_step="Convert them to dicts, lists and text."
    )


def num_characters(value: Any) -> int:
    """Returns how much text a plain value holds."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, (dict, Mapping)):
        return sum(num_characters(key) + num_characters(item) for key, item in value.items())
    return sum(map(num_characters, value)) if isinstance(value, (list, tuple)) else 0
