"""The environment variables Quire obeys, all of them, read here and nowhere else.

    QUIRE_ISA        use this instruction set instead of the fastest one (`quire info` lists the names)
    QUIRE_THREADS    worker threads, where the configuration leaves the number open
    QUIRE_PACKED_CACHE  off, on or a directory: where packed weights are kept, where the option is left out
    QUIRE_OFFLINE    1, true, yes or on: never use the network; models come from directories and the local cache
    HF_HUB_OFFLINE   the same, under the name other Hugging Face tools obey
    XDG_CACHE_HOME   where packed weights are kept if that is on; an absolute path, else ~/.cache
    XDG_STATE_HOME   where `quire chat` keeps its history; an absolute path, else ~/.local/state

An option given in code or on the command line wins over a variable. An empty variable counts as unset.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from quire.errors import ConfigError

MAX_THREADS = 1024
_SWITCH_VALUES: Mapping[str, bool] = MappingProxyType(
    dict.fromkeys(("1", "true", "yes", "on"), True) | dict.fromkeys(("0", "false", "no", "off", ""), False)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What the variables say; None where one is unset."""

    isa: str | None = None
    threads: int | None = None
    is_offline: bool = False
    state_home: Path | None = None
    packed_cache: str | None = None
    cache_home: Path | None = None


def read_environment(variables: Mapping[str, str] | None = None) -> Environment:
    """Returns the settings in `variables` (None: this process's); raises ConfigError for a value that means nothing."""
    source = os.environ if variables is None else variables
    return Environment(
        isa=source.get("QUIRE_ISA", "").strip() or None,
        threads=_read_threads(source.get("QUIRE_THREADS", "").strip()),
        is_offline=_read_switch("QUIRE_OFFLINE", source) or _read_switch("HF_HUB_OFFLINE", source),
        state_home=_read_absolute(source.get("XDG_STATE_HOME", "")),
        packed_cache=source.get("QUIRE_PACKED_CACHE", "").strip() or None,
        cache_home=_read_absolute(source.get("XDG_CACHE_HOME", "")),
    )


def _read_threads(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= MAX_THREADS):
        raise ConfigError(
            "QUIRE_THREADS must be a number of threads",
            given=text[:40],
            limit=f"1 to {MAX_THREADS}",
            next_step="Correct or unset QUIRE_THREADS.",
        )
    return int(text)


def _read_absolute(text: str) -> Path | None:
    """Returns the directory; None for a relative one, which the XDG specification says to ignore."""
    return Path(text) if Path(text).is_absolute() else None


def _read_switch(name: str, source: Mapping[str, str]) -> bool:
    text = source.get(name, "").strip().lower()
    if text not in _SWITCH_VALUES:
        raise ConfigError(f"{name} must be on or off", given=text[:40], limit="1 or 0", next_step=f"Correct or unset {name}.")
    return _SWITCH_VALUES[text]
