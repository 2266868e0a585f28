"""Packed weights on disk, so that a later start reads them instead of packing again.

A directory holds one file per model and format, named by its key. Nothing in a file decides how it is read: lengths, names
and places follow from the model's shape, and what the file says must equal them.

    header    magic, version, key, bytes of matrices, a checksum for every piece; then the SHA-256 of all that
    matrices  as they lie in memory, each from a page boundary on, in the order of the core; norms and biases stay in
              the checkpoint
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quire.executors.core_errors import translated_errors
from quire.executors.core_types import Core
from quire.executors.packing import PanelFormat
from quire.files import PART, remove_abandoned, replacing
from quire.models.weights import Progress
from quire.units import cdiv, format_bytes

if TYPE_CHECKING:
    from quire.native import _core

FORMAT_VERSION = 1
MAX_FILES = 8
MAX_BYTES = 64 << 30
SUFFIX = ".quire-packed"

Buffer = bytes | memoryview

_MAGIC = b"QUIREPKD"
_ALIGNMENT = 4096
_KEY_BYTES = 32
_log = logging.getLogger("quire")


def packed_key(
    core: Core, decoder: _core.Decoder, *, weights_fingerprint: bytes, formats: Mapping[str, PanelFormat], numerics_version: int
) -> bytes:
    """Returns the digest that two starts share only if they pack the same bits."""
    fields = (
        (b"V", FORMAT_VERSION.to_bytes(8, "little")),
        (b"N", numerics_version.to_bytes(8, "little")),
        (b"W", weights_fingerprint),
        (b"F", repr(sorted(formats.items())).encode()),
        (b"P", b"".join(size.to_bytes(8, "little") for size in (core.PANEL, core.GROUP, core.PIECE_BYTES))),
        (b"T", bytes([core.has_amx(decoder.isa)])),
        (b"S", b"".join(size.to_bytes(8, "little") for size in decoder.packed_sizes())),
        (b"B", sys.byteorder.encode()),
    )
    digest = sha256()
    for tag, payload in fields:
        digest.update(tag + len(payload).to_bytes(8, "little") + payload)
    return digest.digest()


class PackedFile:
    """The file of one decoder's matrices in a directory, which need not exist yet."""

    def __init__(self, directory: Path, key: bytes, core: Core, decoder: _core.Decoder) -> None:
        self._directory = directory
        self._key = key
        self._core = core
        self._decoder = decoder
        self._sizes: Sequence[int] = decoder.packed_sizes()
        self._num_pieces = [cdiv(size, core.PIECE_BYTES) for size in self._sizes]
        self.path = directory / f"{key.hex()}{SUFFIX}"

    def restore(self, on_progress: Progress | None = None) -> bool:
        """Fills the decoder's matrices; False if the file is missing or unusable (a warning is logged)."""
        try:
            with self.path.open("rb", buffering=0) as file:
                problem = self._read(file.fileno(), on_progress)
            if problem is None:
                os.utime(self.path)  # the latest used is the last to go
        except FileNotFoundError:
            return False
        except OSError as error:
            problem = error.strerror or "it cannot be read"
        if problem is not None:
            _log.warning("Packed weights %s are not used: %s. They are packed and written again.", self.path.name[:12], problem)
        return problem is None

    def store(self) -> None:
        """Writes the decoder's matrices; if the disk refuses, a warning is logged and nothing else changes."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            num_bytes = self._offsets[-1]
            free = shutil.disk_usage(self._directory).free
            if free < num_bytes:
                _log.warning("Packed weights are not kept: they need %s of disk.", format_bytes(num_bytes))
                return
            self._write()
            forget_oldest(self._directory, keep=self.path)
        except OSError as error:
            _log.warning("Packed weights are not kept: %s.", error.strerror or "the disk refused them")

    # -- reading ---------------------------------------------------------------------

    def _read(self, file: int, on_progress: Progress | None) -> str | None:
        """Returns what is wrong with the file, or None."""
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            return "not a regular file"
        if status.st_size != self._offsets[-1]:
            return f"{status.st_size} bytes instead of {self._offsets[-1]}"
        header = _read_exactly(file, self._header_bytes)
        start, table, digest = header[: len(self._start)], header[len(self._start) : -_KEY_BYTES], header[-_KEY_BYTES:]
        if start != self._start:
            return "another format or model"
        if sha256(start + table).digest() != digest:
            return "a damaged header"
        checksums = np.frombuffer(table, "<u8").tolist()
        for index, count in enumerate(self._num_pieces):
            mine, checksums = checksums[:count], checksums[count:]
            with translated_errors(self._core):
                is_whole = self._decoder.read_packed(index, file, self._offsets[index], mine)
            if not is_whole:
                return "damaged weights"
            if on_progress is not None:
                on_progress(index + 1, len(self._sizes))
        return None

    # -- writing ---------------------------------------------------------------------

    def _write(self) -> None:
        with replacing(self.path, is_shared=True) as part, part.open("wb") as file:
            for piece in self._contents():
                file.write(piece)

    def _contents(self) -> Iterator[Buffer]:
        with translated_errors(self._core):
            sums = [each for index in range(len(self._sizes)) for each in self._decoder.packed_checksums(index)]
        header = self._start + np.array(sums, "<u8").tobytes()
        yield _padded(header + sha256(header).digest())
        for index, size in enumerate(self._sizes):
            yield self._decoder.packed_bytes(index).data
            yield bytes(-size % _ALIGNMENT)

    # -- layout ----------------------------------------------------------------------

    @property
    def _start(self) -> bytes:
        numbers = (FORMAT_VERSION, len(self._sizes), sum(self._sizes), sum(self._num_pieces))
        return _MAGIC + b"".join(number.to_bytes(8, "little") for number in numbers) + self._key

    @property
    def _header_bytes(self) -> int:
        return len(self._start) + 8 * sum(self._num_pieces) + _KEY_BYTES

    @property
    def _offsets(self) -> list[int]:
        """Where each matrix starts, and where the file ends."""
        offsets = [cdiv(self._header_bytes, _ALIGNMENT) * _ALIGNMENT]
        for size in self._sizes:
            offsets.append(offsets[-1] + cdiv(size, _ALIGNMENT) * _ALIGNMENT)
        return offsets


def forget_oldest(directory: Path, keep: Path) -> None:
    """Removes what was used longest ago until files and bytes are within the caps, and what interrupted starts left behind."""
    remove_abandoned(directory, f"*{SUFFIX}{PART}", keep)
    files = [(path.stat(), path) for path in directory.glob(f"*{SUFFIX}") if path != keep]
    num_bytes, num_files = keep.stat().st_size, 1
    for status, path in sorted(files, key=lambda each: each[0].st_mtime, reverse=True):
        num_bytes, num_files = num_bytes + status.st_size, num_files + 1
        if num_files > MAX_FILES or num_bytes > MAX_BYTES:
            with suppress(OSError):
                path.unlink()


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % _ALIGNMENT)


def _read_exactly(file: int, count: int) -> bytes:
    """Returns `count` bytes from the start; fewer only where the file has become shorter."""
    content = b""
    while len(content) < count and (piece := os.read(file, count - len(content))):
        content += piece
    return content
