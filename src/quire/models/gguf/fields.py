"""Typed access to metadata, with a record of what was read: a field that nothing reads can be refused."""

from __future__ import annotations

import logging
import math
from collections.abc import Container, Mapping
from typing import Any, NoReturn

from quire.errors import UnsupportedConfigError
from quire.models.gguf.reader import GgufArray, Value, ValueType
from quire.models.strict_json import shorten

MAX_LISTED = 4096
_log = logging.getLogger("quire")


class Fields:
    """The metadata of a file. Names are whole, such as `llama.block_count`; `own` makes one of the architecture's."""

    def __init__(self, file_name: str, metadata: Mapping[str, Value]) -> None:
        self.file_name = file_name
        self._metadata = metadata
        self._read: set[str] = set()
        self.architecture = self.text("general.architecture") or self.refuse("general.architecture", "is missing")

    def own(self, name: str) -> str:
        """Returns the whole name of a field of the architecture."""
        return f"{self.architecture}.{name}"

    def has(self, name: str) -> bool:
        """Whether the file holds the field."""
        return name in self._metadata

    def size(self, name: str, limit: int) -> int:
        """Returns an integer in [1, limit]; a list of one number per layer must repeat the same one."""
        value = self._uniform(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
            self.refuse(name, "must be a whole number" if self.has(name) else "is missing", f"1 to {limit}")
        return value

    def optional_size(self, name: str, limit: int) -> int | None:
        """Returns an integer in [1, limit]; None where it is absent or 0."""
        return self.size(name, limit) if self._uniform(name) not in (None, 0) else None

    def index(self, name: str, stop: int) -> int:
        """Returns an integer in [0, stop)."""
        value = self._take(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < stop:
            self.refuse(name, "must be a whole number", f"0 to {stop - 1}")
        return value

    def number(self, name: str) -> float:
        """Returns a finite number above 0."""
        value = self._uniform(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
            self.refuse(name, "must be a positive finite number" if self.has(name) else "is missing")
        return float(value)

    def optional_number(self, name: str) -> float | None:
        """Returns a finite number above 0; None where it is absent or 0."""
        return self.number(name) if self._uniform(name) not in (None, 0) else None

    def text(self, name: str) -> str | None:
        """Returns a text, or None where it is absent."""
        value = self._take(name)
        if value is not None and not isinstance(value, str):
            self.refuse(name, "must be a text")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """Returns true or false."""
        value = self._take(name)
        if value is not None and not isinstance(value, bool):
            self.refuse(name, "must be true or false")
        return default if value is None else value

    def texts(self, name: str, limit: int, max_bytes: int) -> list[str]:
        """Returns a list of at most `limit` texts of at most `max_bytes` bytes each; empty where it is absent."""
        value = self._array(name, limit)
        if value is None or not value.count:
            return []
        if value.item is not ValueType.STRING:
            self.refuse(name, "must be a list of texts")
        lengths = value.text_lengths()
        if lengths.max() > max_bytes:
            index = int((lengths > max_bytes).argmax())
            self.refuse(name, f"holds a text of {lengths[index]} bytes at index {index}", f"{max_bytes} bytes")
        try:
            return value.texts()
        except UnicodeDecodeError:
            self.refuse(name, "holds a text that is not UTF-8")

    def numbers(self, name: str, limit: int) -> list[Any]:
        """Returns a list of at most `limit` numbers; empty where it is absent."""
        value = self._array(name, limit)
        if value is not None and value.item in (ValueType.STRING, ValueType.ARRAY, ValueType.BOOL):
            self.refuse(name, "must be a list of numbers")
        return [] if value is None else value.numbers().tolist()

    def require(self, name: str, *only: object) -> None:
        """Accepts a field that is absent or has one of the values that Quire honors."""
        value = self._take(name)
        if value is not None and value not in only:
            self.refuse(name, "has a value that Quire does not honor", ", ".join(map(str, only)))

    def is_equal(self, name: str, *values: object) -> bool:
        """Whether the field holds one of these values."""
        return self._take(name) in values

    def warn(self, name: str, problem: str) -> None:
        """Logs a warning about how a field is used."""
        _log.warning("%s: %s %s.", self.file_name, name, problem)

    def refuse_unread(self, prefix: str, harmless: Container[str] = ()) -> None:
        """Raises UnsupportedConfigError for fields below `prefix` that were not read and are not harmless."""
        unread = sorted(name for name in self._metadata.keys() - self._read if name.startswith(prefix) and name not in harmless)
        if unread:
            raise UnsupportedConfigError(
                f"{self.file_name} holds fields that Quire does not know",
                given=", ".join(shorten(f"{ascii(name)[1:-1]}={self._metadata[name]!r}") for name in unread[:8]),
                next_step="Ignoring a field could change the model: report the field, or use another file of this model.",
            )

    def refuse(self, name: str, problem: str, limit: object = None) -> NoReturn:
        """Raises UnsupportedConfigError about one field."""
        value = self._metadata.get(name)
        given = f"a list of {value.count}" if isinstance(value, GgufArray) else shorten(repr(value))
        raise UnsupportedConfigError(
            f"{self.file_name}: {name} {problem}",
            given="nothing" if value is None else given,
            limit=limit,
            next_step="Use a file that a current converter of llama.cpp wrote for a supported model.",
        )

    def _take(self, name: str) -> Value | None:
        self._read.add(name)
        return self._metadata.get(name)

    def _array(self, name: str, limit: int) -> GgufArray | None:
        value = self._take(name)
        if value is not None and not isinstance(value, GgufArray):
            self.refuse(name, "must be a list")
        if value is not None and value.count > limit:
            self.refuse(name, "is too long", f"{limit} items")
        return value

    def _uniform(self, name: str) -> Any:
        """Returns a number, or that of a list whose items are all the same."""
        value = self._take(name)
        if not isinstance(value, GgufArray):
            return value
        if not 1 <= value.count <= MAX_LISTED:
            self.refuse(name, "must be one number, or one per layer")
        items = set(self.numbers(name, MAX_LISTED))
        if len(items) > 1:
            self.refuse(name, "differs from layer to layer, which Quire does not run")
        return items.pop()
