"""Opens files of a model that are not trusted: maps weight files into memory, and reads small ones whole."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from pathlib import Path

from quire.errors import CheckpointError

DOWNLOAD_AGAIN = "Download the file again; this copy is damaged or was made by a faulty program."


def map_file(path: Path, least_bytes: int) -> tuple[os.stat_result, mmap.mmap]:
    """Returns a regular file's status and its content.

    Raises CheckpointError, with the file's name and never its path, if it cannot be read or is shorter than `least_bytes`,
    with which every file of its format begins.
    """
    try:
        with open(path, "rb", buffering=0, opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            _check(path.name, status, least_bytes)
            return status, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise CheckpointError(
            f"{path.name} cannot be read", given=error.strerror, next_step="Check that the file exists and is readable."
        ) from error


def read_file(path: Path, max_bytes: int) -> bytes | None:
    """Returns a regular file's content, None if it is longer than `max_bytes`; allocates no more than the file holds.

    Raises OSError if it cannot be read.
    """
    with open(path, "rb", buffering=0, opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return None if status.st_size > max_bytes else file.read()


def _open_at_once(path: str, flags: int) -> int:
    """Opens a pipe without waiting for its writer, so that it can be refused; a regular file as ever."""
    return os.open(path, flags | os.O_NONBLOCK)


def _check(file_name: str, status: os.stat_result, least_bytes: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{file_name} is not a regular file", next_step=DOWNLOAD_AGAIN)
    if status.st_size < least_bytes:
        raise CheckpointError(
            f"{file_name} is truncated before its header", given=f"{status.st_size} bytes", next_step=DOWNLOAD_AGAIN
        )
