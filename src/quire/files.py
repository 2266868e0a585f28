"""Files that are whole or not there: written under another name, flushed to the disk, and only then given their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PART = ".part"
"""How the names of unfinished files end."""

_ABANDONED_S = 24 * 3600


@contextmanager
def replacing(path: Path, *, is_shared: bool = False) -> Iterator[Path]:
    """Yields a name under which the block writes a file; when the block ends, the file is on the disk under the name `path`.

    An error in the block leaves what was there. `is_shared`: other processes may write the same file at the same time.
    Raises OSError where the operating system refuses.
    """
    prefix = f"{os.urandom(6).hex()}." if is_shared else ""
    part = path.with_name(f"{prefix}{path.name}{PART}")
    try:
        yield part
        flush(part)
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    flush(path.parent)


def flush(path: Path) -> None:
    """Waits until a file's content, or a directory's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_abandoned(directory: Path, pattern: str, newest: Path) -> None:
    """Removes what killed processes left half written: files a day older than the `newest`, which was just written."""
    limit = newest.stat().st_mtime - _ABANDONED_S
    for part in directory.glob(pattern):
        with suppress(OSError):
            if part.stat().st_mtime < limit:
                part.unlink()
