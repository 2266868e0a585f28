"""How the native kernels prefetch weights: chosen by a short probe over the model's own, and remembered per machine.

No bit depends on it.

Processors differ: hardware prefetchers that keep up want to be left alone, others gain from ours. And virtual machines differ in
how their pages lie in memory, so patterns are compared region by region of the same weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from enum import Enum
from statistics import median

from quire.environment import cache_directory, processor, read_environment
from quire.files import replacing

PROBE_VERSION = 1
"""Raised when a kernel reads weights in another way, so that what was remembered no longer counts."""

BUDGET_S = 0.025  # of reads; what surrounds them takes a few milliseconds more
NUM_REGIONS = 16
REGION_BYTES = 4 << 20
MIN_WEIGHT_BYTES = 128 << 20  # less may stay in a cache

_CLEAR = 0.97  # of the default's time
_MIN_REGIONS = 8
_FIRST_READS = 3
_SLACK = 1.5  # reads may take this much longer than the first ones
_MAX_CHOICES = 64
_MAX_FILE_BYTES = 1 << 16
_FILE_NAME = "prefetch.json"


class Prefetch(Enum):
    """How products of few rows prefetch weights: not at all, a short distance ahead into L1, far ahead into L2, or both.

    PACED prefetches nothing but keeps loads apart, so that a core does not run ahead of its hardware prefetchers.
    """

    NONE = "none"
    NEAR = "near"
    FAR = "far"
    BOTH = "both"
    PACED = "paced"


DEFAULT = Prefetch.BOTH

TimedRead = Callable[[int, Prefetch], float]
"""Reads a region of the weights and returns the seconds that took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What a choice is remembered for."""

    processor: str
    isa: str
    weights: str
    threads: int
    version: int = PROBE_VERSION


def circumstances(isa: str, weights: str, threads: int) -> Circumstances:
    """Returns those of this machine."""
    return Circumstances(processor=processor(), isa=isa, weights=weights, threads=threads)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A pattern, and where it comes from."""

    pattern: Prefetch
    source: str

    def __str__(self) -> str:
        return f"{self.pattern.value} ({self.source})"


def choose(where: Circumstances, probe: Callable[[], Prefetch | None]) -> Choice:
    """Returns what QUIRE_PREFETCH says, an earlier start remembered, or the probe finds, which is remembered; else the default.

    Raises ConfigError for a QUIRE_PREFETCH that means nothing.
    """
    if (forced := read_environment().prefetch) is not None:
        return Choice(pattern=Prefetch(forced), source="QUIRE_PREFETCH")
    if (known := remembered(where)) is not None:
        return Choice(pattern=known, source="remembered")
    if (found := probe()) is None:
        return Choice(pattern=DEFAULT, source="default")
    remember(where, found)
    return Choice(pattern=found, source="probed")


def fastest(read: TimedRead, num_regions: int, budget_s: float = BUDGET_S) -> Prefetch | None:
    """Returns the fastest pattern; None if none is clearly faster than the default, or the budget did not suffice.

    Every pattern reads every region. A region is read again only after others, so that no cache holds it; further sweeps
    follow while the budget lasts, and the best time of a region counts. The median over the regions that every pattern read
    decides.
    """
    if num_regions < _MIN_REGIONS:
        return None
    patterns = tuple(Prefetch)
    first: list[float] = []  # reads that wake the threads and tell how many regions the budget allows
    while len(first) < _FIRST_READS and sum(first) < budget_s / 8:
        first.append(read(num_regions - 1 - len(first), DEFAULT))
    spent, typical = sum(first), min(first)
    count = min(num_regions, int((budget_s - spent) / (typical * len(patterns) * _SLACK)))
    if count < _MIN_REGIONS:
        return None
    regions = [index * num_regions // count for index in range(count)]
    best: dict[tuple[int, Prefetch], float] = {}
    while True:
        for turn in range(len(patterns)):
            for index, region in enumerate(regions):
                if spent + typical > budget_s:
                    return _clear_winner(best, regions)
                pattern = patterns[(index + turn) % len(patterns)]
                seconds = read(region, pattern)
                spent += seconds
                best[region, pattern] = min(seconds, best.get((region, pattern), seconds))


def _clear_winner(best: dict[tuple[int, Prefetch], float], regions: Sequence[int]) -> Prefetch | None:
    whole = [region for region in regions if all((region, each) in best for each in Prefetch)]
    if len(whole) < _MIN_REGIONS:
        return None
    shares = {each: median(best[region, each] / best[region, DEFAULT] for region in whole) for each in Prefetch}
    winner = min(shares, key=lambda each: shares[each])
    return winner if winner is DEFAULT or shares[winner] < _CLEAR else None


def remembered(where: Circumstances) -> Prefetch | None:
    """Returns what was remembered for these circumstances; None if nothing was, or the file is damaged."""
    return next((pattern for known, pattern in _choices() if known == where), None)


def all_remembered(isa: str, threads: int) -> dict[str, Prefetch]:
    """Returns what was remembered on this machine, by weights."""
    here = circumstances(isa, "", threads)
    return {known.weights: pattern for known, pattern in _choices() if replace(known, weights="") == here}


def remember(where: Circumstances, pattern: Prefetch) -> None:
    """Keeps a choice for later starts, if there is a place for it and the disk takes it."""
    directory = cache_directory()
    if directory is None:
        return
    others = [(known, each) for known, each in _choices() if known != where]
    kept = [*others, (where, pattern)][-_MAX_CHOICES:]
    entries = [{"for": asdict(known), "prefetch": each.value} for known, each in kept]
    with suppress(OSError):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacing(directory / _FILE_NAME, is_shared=True) as part:
            part.write_text(json.dumps({"choices": entries}, indent=1), encoding="utf-8")


def _choices() -> list[tuple[Circumstances, Prefetch]]:
    """Returns what the file holds, oldest first; nothing where it is missing or damaged."""
    directory = cache_directory()
    if directory is None:
        return []
    try:
        with (directory / _FILE_NAME).open("rb") as file:
            entries = json.loads(file.read(_MAX_FILE_BYTES))["choices"]
        return [(Circumstances(**each["for"]), Prefetch(each["prefetch"])) for each in entries]
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return []
