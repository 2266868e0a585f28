"""Small arithmetic and formatting of quantities, shared by every layer."""

from __future__ import annotations

import re
from types import MappingProxyType

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
MAX_BYTES = 2**60
"""The largest size that is read: more than any machine has."""

_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<suffix>[a-z]*)")
_SUFFIXES = MappingProxyType(
    {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "k": KIB, "m": MIB, "g": GIB, "kib": KIB, "mib": MIB, "gib": GIB}
)


_TIME = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<suffix>ms|s)")


def cdiv(numerator: int, denominator: int) -> int:
    """Returns the quotient rounded up."""
    return -(-numerator // denominator)


def format_bytes(num_bytes: int) -> str:
    """Returns a binary-unit text with one decimal: `1.5 GiB`, `512 B`."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.1f} {name}"
    return f"{num_bytes} B"


def format_rate(per_second: float, unit: str) -> str:
    """Returns a rate with three significant figures: `48.5 tokens/s`."""
    return f"{per_second:.3g} {unit}/s" if per_second < 1000 else f"{per_second:,.0f} {unit}/s"


def parse_bytes(text: str) -> int:
    """Returns the bytes meant by `2GiB`, `512 MiB`, `1.5g` or `4096`; raises ValueError with the accepted forms."""
    match = _SIZE.fullmatch(text.strip().lower())
    if match is None or match["suffix"] not in _SUFFIXES:
        raise ValueError(f"{text[:40]!r} is not a size; write a number with B, KiB, MiB or GiB, for example 2GiB")
    size = float(match["number"]) * _SUFFIXES[match["suffix"]]
    if size > MAX_BYTES:
        raise ValueError(f"{text.strip()[:20]!r} is not a size that a machine has; write one such as 2GiB")
    return int(size)


def parse_seconds(text: str) -> float:
    """Returns the seconds meant by `150ms` or `0.15s`; raises ValueError with the accepted forms."""
    match = _TIME.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f"{text[:40]!r} is not a time; write a number with ms or s, for example 150ms")
    return float(match["number"]) / (1000 if match["suffix"] == "ms" else 1)
