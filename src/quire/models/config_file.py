"""Reads `config.json` through an allow-list: every field is honored, known to be harmless, or refused by its name.

A family asks a `Config` for typed values; the config remembers what was asked. `refuse_unread()` then raises for any
field that was not read and is not known to be inert, because ignoring it could silently change the model.

Absent is not null. A field that the file leaves out has the value of the family's table of defaults; one that is null is
refused, unless it is read as optional, where null is None. Null in a field that is not read has no effect.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

from quire.errors import ModelError, ModelNotFoundError, UnsupportedConfigError
from quire.models.config_fields import HARMLESS_FIELDS, INERT_VALUES
from quire.models.mapped_file import read_file
from quire.models.strict_json import parse_json, shorten
from quire.units import MIB

MAX_CONFIG_BYTES = MIB
MAX_LIST_ITEMS = 4096

_log = logging.getLogger("quire")

Value = TypeVar("Value")


class Config:
    """One JSON object of a model's configuration, with typed access and a record of which fields were read."""

    __slots__ = ("_defaults", "_fields", "_path", "_read", "_sections", "_warned")

    def __init__(self, fields: Mapping[str, Any], path: str = "") -> None:
        self._fields = dict(fields)
        self._defaults: Mapping[str, Any] = {}
        self._path = path
        self._read: set[str] = set()
        self._sections: dict[str, Config] = {}
        self._warned: set[str] = set()

    def assume(self, defaults: Mapping[str, Any]) -> None:
        """Sets the values of fields that the file leaves out."""
        self._defaults = defaults

    def is_given(self, name: str) -> bool:
        """Whether the file holds the field, be it null."""
        return name in self._fields

    @property
    def fields(self) -> Mapping[str, Any]:
        """The fields that the file holds; a field that is looked at here does not count as read."""
        return MappingProxyType(self._fields)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the fields that the file holds."""
        return tuple(self._fields)

    def as_json(self) -> str:
        """Returns the object as one line of JSON, its fields in the order of the file."""
        return json.dumps(self._fields)

    def is_bool(self, name: str) -> bool:
        """Whether the field is true or false."""
        return isinstance(self._fields.get(name), bool)

    def ignore(self, names: str) -> None:
        """Accepts fields that have no effect, whatever they hold; their names are separated by spaces."""
        self._read.update(names.split())

    def has(self, name: str) -> bool:
        """Whether the file holds the field with a value."""
        return self._fields.get(name) is not None

    def size(self, name: str, *, limit: int, low: int = 1, default: int | None = None) -> int:
        """Returns an integer in [low, limit]."""
        value = self._take(name, default)
        if not is_whole(value) or not low <= value <= limit:
            self.refuse(name, "must be a whole number", f"{low} to {limit}")
        return int(value)

    def optional_size(self, name: str, *, limit: int) -> int | None:
        """Returns an integer in [1, limit], or None for null."""
        return None if self._is_null(name) else self.size(name, limit=limit)

    def number(self, name: str, default: float | None = None) -> float:
        """Returns a finite number above 0."""
        value = self._take(name, default)
        if not _is_positive_number(value):
            self.refuse(name, "must be a positive finite number")
        return float(value)

    def optional_number(self, name: str) -> float | None:
        """Returns a finite number above 0, or None for null."""
        return None if self._is_null(name) else self.number(name)

    def flag(self, name: str, *, default: bool | None = None) -> bool:
        """Returns true or false."""
        value = self._take(name, default)
        if not isinstance(value, bool):
            self.refuse(name, "must be true or false")
        return value

    def choice(self, name: str, table: Mapping[str, Value], default: str | None = None) -> Value:
        """Returns what `table` maps the field's text to; any other text is refused."""
        value = self._take(name, default)
        if not isinstance(value, str) or value not in table:
            self.refuse(name, "has a value that Quire does not honor", ", ".join(sorted(table)))
        return table[value]

    def text(self, name: str) -> str | None:
        """Returns a string, or None where the field is absent or null."""
        self._read.add(name)
        value = self._fields.get(name)
        if value is not None and not isinstance(value, str):
            self.refuse(name, "must be a string")
        return value

    def architecture(self) -> str:
        """Returns the one architecture the file names."""
        names = self.texts("architectures")
        if names is None or len(names) != 1:
            self.refuse("architectures", "must name exactly one architecture")
        return names[0]

    def texts(self, name: str) -> tuple[str, ...] | None:
        """Returns a list of strings, or None where the field is absent or null."""
        values = self._list(name)
        if values is not None and not all(isinstance(value, str) for value in values):
            self.refuse(name, "must be a list of strings")
        return values

    def numbers(self, name: str) -> tuple[float, ...]:
        """Returns a list of finite numbers above 0; the field must be there."""
        values = self._list(name)
        if values is None or not all(_is_positive_number(value) for value in values):
            self.refuse(name, "must be a list of positive finite numbers")
        return tuple(float(value) for value in values)

    def section(self, name: str) -> Config | None:
        """Returns a nested object, or None where the field is absent or null; its fields are accounted for too."""
        self._read.add(name)
        if self.has(name) and name not in self._sections:
            if not isinstance(self._fields[name], dict):
                self.refuse(name, "must be a JSON object")
            self._sections[name] = Config(self._fields[name], f"{self._path}{name}.")
        return self._sections.get(name)

    def require(self, name: str, *only: object) -> None:
        """Accepts the field if it is absent, null, or has one of the values that Quire honors."""
        self._read.add(name)
        value = self._fields.get(name)
        if value is not None and not any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in only):
            self.refuse(name, "has a value that Quire does not honor", ", ".join(map(json.dumps, only)))

    def require_same(self, name: str, original: str) -> None:
        """Accepts the field if it repeats another one."""
        self._read.add(name)
        if self._fields.get(name) != self._fields.get(original):
            self.refuse(name, f"differs from {original}")

    def token_ids(self, name: str, vocab_size: int) -> None:
        """Accepts the field if it is absent, null, or holds ids below `vocab_size`: one, or a list of them."""
        self._read.add(name)
        value = self._fields.get(name)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if not all(is_whole(each) and 0 <= each < vocab_size for each in ids):
            self.refuse(name, "is not a token of this model", f"0 to {vocab_size - 1}, for a vocab_size of {vocab_size}")

    def warn(self, name: str, problem: str) -> None:
        """Accepts a field, and logs one warning about how it is used."""
        self._read.add(name)
        if name not in self._warned:
            self._warned.add(name)
            _log.warning("config.json: %s%s %s.", self._path, name, problem)

    def refuse_unread(self) -> None:
        """Raises UnsupportedConfigError for the fields that were neither read nor inert."""
        for name in INERT_VALUES.keys() - self._read:
            self.require(name, *INERT_VALUES[name])
        unread = sorted(name for name in self._fields.keys() - self._read - HARMLESS_FIELDS if self.has(name))
        if unread:
            raise UnsupportedConfigError(
                "config.json holds fields that Quire does not know for this architecture",
                given=", ".join(shorten(f"{self._path}{name}={self._fields[name]!r}") for name in unread[:8]),
                next_step="Ignoring a field could change the model: report the field, or remove it if it has no effect.",
            )
        for section in self._sections.values():
            section.refuse_unread()

    def refuse(self, name: str, problem: str, limit: object = None) -> NoReturn:
        """Raises UnsupportedConfigError about one field."""
        raise UnsupportedConfigError(
            f"config.json: {self._path}{name} {problem}",
            given=shorten(json.dumps(self._fields[name])) if name in self._fields else "nothing",
            limit=limit,
            next_step="Check that config.json is complete and belongs to a supported model.",
        )

    def _is_null(self, name: str) -> bool:
        self._read.add(name)
        return self._fields.get(name, self._defaults.get(name)) is None

    def _take(self, name: str, default: object) -> Any:
        self._read.add(name)
        value = self._fields.get(name, self._defaults.get(name, default))
        if value is None:
            self.refuse(name, "must not be null" if self.is_given(name) else "is missing")
        return value

    def _list(self, name: str) -> tuple[Any, ...] | None:
        self._read.add(name)
        value = self._fields.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) > MAX_LIST_ITEMS:
            self.refuse(name, "must be a list", f"{MAX_LIST_ITEMS} items")
        return tuple(value)


def read_config(directory: Path) -> Config:
    """Returns the configuration of a model directory.

    Raises ModelNotFoundError without the directory, ModelError without a readable `config.json` of at most 1 MiB.
    """
    if not directory.is_dir():
        raise ModelNotFoundError(
            "There is no such model directory", given=directory, next_step="Pass a directory with config.json."
        )
    path = directory / "config.json"
    if not path.is_file():
        raise ModelError("The model directory holds no config.json", given=directory, next_step="Pass a Hugging Face checkpoint.")
    return parse_config(read_config_bytes(path))


def read_config_bytes(path: Path) -> bytes:
    """Returns the content of a `config.json`; raises ModelError for one that cannot be read or is longer than 1 MiB."""
    try:
        content = read_file(path, MAX_CONFIG_BYTES)
    except OSError as error:
        raise ModelError("config.json cannot be read", given=error.strerror, next_step="Check its permissions.") from error
    if content is None:
        raise ModelError("config.json is too large", limit=f"{MAX_CONFIG_BYTES} bytes", next_step="Restore the original file.")
    return content


def parse_config(content: bytes) -> Config:
    """Returns the configuration in the bytes of a `config.json`; raises ModelError unless they are one JSON object."""
    try:
        fields = parse_json(content)
    except ValueError as error:
        reason = shorten(str(error))
        raise ModelError("config.json is not valid JSON", given=reason, next_step="Restore the original file.") from error
    if not isinstance(fields, dict):
        raise ModelError("config.json is not a JSON object", given=type(fields).__name__, next_step="Restore the original file.")
    return Config(fields)


def is_whole(value: object) -> bool:
    """Whether a value of JSON is an integer."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_positive_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= sys.float_info.max
