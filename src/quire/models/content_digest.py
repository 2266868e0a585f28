"""The SHA-256 of a weight file's whole content, read once per file and then remembered.

A copy of a file has the same digest, a changed byte another one. A remembered digest is found by the file's path, device,
inode, size, modification time and *change* time: the last one moves with every write and no program can set it back, so an
edit is noticed even where the modification time was restored.

    <cache>/quire/digests/<SHA-256 of those facts>    the digest and its checksum, 64 bytes

A directory that refuses to be read or written only costs the time to read the file again.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from quire.environment import cache_directory, default_threads
from quire.files import PART, remove_abandoned
from quire.units import cdiv

FORMAT_VERSION = 1
PIECE_BYTES = 4 << 20
MIN_REMEMBERED_BYTES = 1 << 20
"""A smaller file is read in a millisecond."""
MAX_ENTRIES = 1024

_MAX_THREADS = 8
_SETTLED_NS = 2_000_000_000  # file systems keep times this coarsely: what changed later may change again without a trace
_DIGEST_BYTES = 32

Progress = Callable[[], None]


class MappedFile(Protocol):
    """A weight file of any format, as it was when it was mapped."""

    @property
    def path(self) -> Path: ...

    @property
    def status(self) -> os.stat_result: ...

    @property
    def content(self) -> mmap.mmap: ...


def content_digest(file: MappedFile, on_piece: Progress | None = None) -> bytes:
    """Returns 32 bytes that follow from the file's content alone; `on_piece` is called once per piece that was read."""
    directory = cache_directory()
    if directory is None or len(file.content) < MIN_REMEMBERED_BYTES:
        return _read_content(file, on_piece)
    entry = directory / "digests" / _facts(file).hex()
    found = _recall(entry)
    if found is not None:
        return found
    with _new_entry(entry.parent) as part:
        digest = _read_content(file, on_piece)
        if part is not None:
            _remember(digest, file, part, entry)
    return digest


def num_pieces(file: MappedFile) -> int:
    """Returns the number of pieces in which a file's content is read."""
    return cdiv(len(file.content), PIECE_BYTES)


def _read_content(file: MappedFile, on_piece: Progress | None) -> bytes:
    """Returns the digest of the pieces' digests, which threads can make at once."""
    whole = sha256(b"quire content" + FORMAT_VERSION.to_bytes(8, "little") + len(file.content).to_bytes(8, "little"))
    view, count = memoryview(file.content), num_pieces(file)
    pool = ThreadPoolExecutor(min(count, _MAX_THREADS, default_threads()), thread_name_prefix="quire-digest")
    try:
        for digest in pool.map(lambda idx: sha256(view[idx * PIECE_BYTES : (idx + 1) * PIECE_BYTES]).digest(), range(count)):
            whole.update(digest)
            if on_piece is not None:
                on_piece()
    finally:
        pool.shutdown(cancel_futures=True)
    return whole.digest()


def _facts(file: MappedFile) -> bytes:
    """Returns a digest of what makes a file the one that was read before."""
    status = file.status
    numbers = (FORMAT_VERSION, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return sha256(b" ".join(b"%d" % number for number in numbers) + os.fsencode(file.path.absolute())).digest()


def _recall(entry: Path) -> bytes | None:
    try:
        content = entry.read_bytes()
    except OSError:
        return None
    digest = content[:_DIGEST_BYTES]
    return digest if content == digest + _checksum(digest, entry) else None


@contextmanager
def _new_entry(directory: Path) -> Iterator[Path | None]:
    """Yields a new file, made before the content is read so that its time can be compared; None where none can be made."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=directory, suffix=PART)
        os.close(descriptor)
    except OSError:
        yield None
        return
    try:
        yield Path(name)
    finally:
        with suppress(OSError):
            os.unlink(name)


def _remember(digest: bytes, file: MappedFile, part: Path, entry: Path) -> None:
    """Gives the digest its place, unless the file changed so shortly before that a later change could look the same."""
    with suppress(OSError):
        newest = max(file.status.st_mtime_ns, file.status.st_ctime_ns)
        if part.stat().st_mtime_ns - newest < _SETTLED_NS:
            return
        part.write_bytes(digest + _checksum(digest, entry))
        os.replace(part, entry)
        _forget_oldest(entry.parent)
        remove_abandoned(entry.parent, f"*{PART}", entry)


def _checksum(digest: bytes, entry: Path) -> bytes:
    return sha256(digest + entry.name.encode()).digest()


def _forget_oldest(directory: Path) -> None:
    """Removes the oldest digests beyond the limit, and leaves what another process is about to give its place."""
    entries = sorted((path.stat().st_mtime_ns, path) for path in directory.iterdir() if path.suffix != PART)
    for _, path in entries[:-MAX_ENTRIES]:
        path.unlink(missing_ok=True)
