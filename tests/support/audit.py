"""What Python does outside of its own memory while a test watches: files, connections, processes, foreign objects and code."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_PREFIXES = ("socket.", "pickle.", "marshal.", "subprocess.", "shutil.", "glob.", "tempfile.", "urllib.", "ctypes.")
_EVENTS = frozenset(
    {"open", "exec", "import", *(f"os.{name}" for name in ("system", "exec", "posix_spawn", "fork", "remove", "rename", "mkdir"))}
)
_OWN_CODE = 'file "<template>"'
"""The chat template of the model, which is compiled once and run for each chat."""


class _Watch:
    """Collects events while it is told to. Python never removes a hook, so there is one for the whole process."""

    def __init__(self) -> None:
        self.noted: list[str] | None = None
        self.lock = threading.Lock()
        self._is_installed = False

    def install(self) -> None:
        if not self._is_installed:
            self._is_installed = True
            sys.addaudithook(self._note)

    def _note(self, event: str, args: tuple[Any, ...]) -> None:
        noted = self.noted
        if noted is None or not (event in _EVENTS or event.startswith(_PREFIXES)):
            return
        if event != "exec" or _OWN_CODE not in repr(args):
            noted.append(f"{event} {str(args)[:200]}")


_WATCH = _Watch()


@contextmanager
def watched() -> Iterator[list[str]]:
    """Collects the events of every thread until the end."""
    _WATCH.install()
    with _WATCH.lock:
        _WATCH.noted = events = []
        try:
            yield events
        finally:
            _WATCH.noted = None
