"""What all tests of damaged weight files share: numbers at the edge, damaged bytes, and what may come of opening a file."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Callable, Collection

from quire.errors import QuireError

EXTREMES = (0, 1, 2, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
OUTCOMES = frozenset(
    {"opened", "ModelError", "CheckpointError", "TokenizerError", "UnsupportedConfigError", "UnknownArchitectureError"}
)
"""What may come of a damaged file: it opens, or one of these errors says why it does not."""

_SPARE_BYTES = 4 << 20
"""What opening any file may allocate: messages, Python objects per field, and the vocabulary's tables."""
_MAX_MESSAGE_CHARS = 3000


def damaged(content: bytes, start: int, stop: int, rng: random.Random) -> bytes:
    """Returns the bytes with one or two changes in [start, stop), or cut off."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2))):
        place = rng.randrange(start, stop - 8)
        match rng.choice((0, 0, 1, 1, 2, 3, 3, 4, 5, 6)):
            case 0:
                changed[place] = rng.randrange(256)
            case 1:
                changed[place] ^= 1 << rng.randrange(8)
            case 2:
                changed[place : place + 8] = struct.pack("<Q", rng.choice(EXTREMES))
            case 3:
                changed[place : place + 4] = struct.pack("<I", rng.choice(EXTREMES) % 2**32)
            case 4:
                del changed[place : place + rng.randint(1, 40)]
            case 5:
                changed[place:place] = rng.randbytes(rng.randint(1, 40))
            case _:
                del changed[rng.randrange(len(changed)) :]
                changed += bytes(max(0, stop - len(changed)) if rng.random() < 0.5 else 0)
        stop = min(stop, len(changed))
        if stop < start + 12:
            break
    return bytes(changed)


def outcome_of(read_all: Callable[[], None], *, names: Collection[str], max_bytes: int) -> str:
    """Opens and reads a model, and returns "opened" or the kind of Quire's error.

    Raises AssertionError for an error that names none of `names`, has no next step or is endless, and for more than
    `max_bytes`, and a few MiB, allocated at once. Every other exception passes through.
    """
    tracemalloc.start()
    try:
        read_all()
        found = "opened"
    except QuireError as error:
        found, message = type(error).__name__, str(error)
        if not error.next_step or len(message) > _MAX_MESSAGE_CHARS or not any(name in message for name in names):
            raise AssertionError(f"an error that is endless, names nothing or has no next step: {message[:500]}") from error
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    if peak > _SPARE_BYTES + max_bytes:
        raise AssertionError(f"{peak} bytes allocated for a file that justifies {max_bytes}")
    return found
