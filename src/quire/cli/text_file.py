"""Reads a text that a command is about."""

from __future__ import annotations

from pathlib import Path

from quire.errors import ConfigError
from quire.values import utf8_fault_of


def read_text_file(path: Path) -> str:
    """Returns the content of a UTF-8 file; raises ConfigError with its name and the reason."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = utf8_fault_of(path) if isinstance(error, UnicodeDecodeError) else error.strerror
        raise ConfigError("the text cannot be read", given=f"{path.name}: {reason}", next_step="Name a UTF-8 file.") from error
