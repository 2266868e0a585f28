"""What a scenario promised, and what it saw."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """`what` was promised, `seen` is what came of it. A timing depends on what else the machine does."""

    what: str
    seen: str
    is_kept: bool
    is_timing: bool = False


def promise(what: str, seen: object, is_kept: bool) -> Promise:
    """Returns what holds on any machine."""
    return Promise(what=what, seen=str(seen), is_kept=is_kept)


def timing(what: str, seen: str, is_kept: bool) -> Promise:
    """Returns what holds on a machine that is otherwise idle."""
    return Promise(what=what, seen=seen, is_kept=is_kept, is_timing=True)


def broken(promises: Iterable[Promise]) -> list[str]:
    """Returns the broken promises that hold on any machine."""
    return [f"{each.what}: {each.seen}" for each in promises if not each.is_kept and not each.is_timing]


def show(name: str, promises: Sequence[Promise]) -> bool:
    """Prints them; returns whether all were kept."""
    for each in promises:
        print(f"{name}: {'kept  ' if each.is_kept else 'BROKEN'} {each.what}: {each.seen}", flush=True)
    return all(each.is_kept for each in promises)


def percentile(values: Sequence[float], share: float) -> float:
    """Returns the value below which a share of at least one value lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
