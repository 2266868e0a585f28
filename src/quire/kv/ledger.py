"""The books of the cache: what it did for each request, and how the pool's bytes are used.

open -> (note_wait)* -> admit -> ... -> close
                          |  ^
         taken back <-----+  +---- again after each preemption
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from quire.kv.explain import Admission, CacheExplanation, Facts, Unexplained, explain
from quire.kv.layout import KVLayout
from quire.kv.pool import BlockPool

DEFAULT_MAX_CLOSED = 4096
MAX_ADMISSIONS = 16
"""Of one request that are kept: the first, and the newest."""

_MAX_WAITS = 16
_MAX_DOMAINS = 4096


class _Entry:
    """What is known of one request."""

    __slots__ = ("admissions", "num_left_out", "waits")

    def __init__(self) -> None:
        self.admissions: list[Admission] = []
        self.num_left_out = 0
        self.waits: dict[str, None] = {}  # in the order in which it waited for them


class Ledger:
    """Every admission of the requests in progress and of the last `max_closed` others. Read by any thread."""

    __slots__ = ("_closed", "_interrupted", "_max_closed", "_open", "_tenants")

    def __init__(self, max_closed: int = DEFAULT_MAX_CLOSED) -> None:
        self._open: dict[str, _Entry] = {}
        self._closed: OrderedDict[str, _Entry] = OrderedDict()
        self._interrupted: dict[str, _Entry] = {}
        self._tenants: OrderedDict[bytes, str] = OrderedDict()
        self._max_closed = max_closed

    def __len__(self) -> int:
        return len(self._open) + len(self._closed)

    def open(self, request_id: str, root: bytes = b"", tenant: str = "") -> None:
        """Begins the entry of a request, in place of an older one of the same id, or goes on with one that was interrupted.

        `root` is that of the request's domain, by which `tenant_of` knows the tenant of what it leaves in the cache.
        """
        self._closed.pop(request_id, None)
        interrupted = self._interrupted.pop(request_id, None)
        self._open[request_id] = _Entry() if interrupted is None else interrupted
        self._tenants[root] = tenant
        self._tenants.move_to_end(root)
        if len(self._tenants) > _MAX_DOMAINS:
            self._tenants.popitem(last=False)

    def close(self, request_id: str) -> None:
        """Ends an entry, which is kept until many others have ended."""
        entry = self._open.pop(request_id, None)
        if entry is not None:
            self._closed[request_id] = entry
            if len(self._closed) > self._max_closed:
                self._closed.popitem(last=False)

    def note_wait(self, request_id: str, other_id: str) -> None:
        """Notes that a request is not let in yet because another one is computing its prefix."""
        waits = self._open[request_id].waits
        if len(waits) < _MAX_WAITS:
            waits[other_id] = None

    def admit(self, facts: Facts, pool: BlockPool | None, step: int) -> None:
        """Notes that a request is let in, before the pool changes by that; no pool means no prefix cache."""
        entry = self._open[facts.request.request_id]
        entry.admissions.append(explain(facts, pool, step, tuple(entry.waits)))
        if len(entry.admissions) > MAX_ADMISSIONS:
            del entry.admissions[1]
            entry.num_left_out += 1
        entry.waits.clear()

    def take_back(self, request_id: str) -> None:
        """Forgets the last admission: it was taken back, so nothing was reused."""
        entry = self._open[request_id]
        entry.waits.update(dict.fromkeys(entry.admissions.pop().waited_for))

    def num_cached_tokens(self, request_id: str) -> int:
        """Returns what the first admission of a request in progress reused; 0 before it."""
        admissions = self._open[request_id].admissions
        return admissions[0].num_reused_tokens if admissions else 0

    def explain(self, request_id: str) -> CacheExplanation | Unexplained:
        """Returns what the cache did for a request, or why that is not known."""
        entry = self._open.get(request_id)
        is_open = entry is not None
        entry = entry or self._closed.get(request_id)
        if entry is None:
            return Unexplained.UNKNOWN
        admissions = tuple(entry.admissions)
        if not admissions:
            return Unexplained.WAITING if is_open else Unexplained.NEVER_LET_IN
        return CacheExplanation(request_id=request_id, admissions=admissions, num_left_out=entry.num_left_out)

    def tenant_of(self, root: bytes) -> str | None:
        """Returns the tenant of a domain; None where very many others were seen since."""
        return self._tenants.get(root)

    def take_place_of(self, other: Ledger, step: int) -> None:
        """Goes on with a ledger that is given up in step `step`, in which nothing was reused. This one must be new."""
        self._closed, self._interrupted = other._closed, other._open
        for entry in self._interrupted.values():
            entry.admissions = [admission for admission in entry.admissions if admission.step != step]


@dataclass(frozen=True, slots=True, kw_only=True)
class KVUsage:
    """Where the pool's blocks are: held by a request, free but findable, or free and empty. The three make the total."""

    num_used_blocks: int
    num_cached_blocks: int
    num_empty_blocks: int
    bytes_per_block: int

    @classmethod
    def of(cls, layout: KVLayout, *, num_blocks: int, num_free: int, num_cached: int) -> KVUsage:
        """Returns the usage of a pool from its counts; `num_cached` of its `num_free` blocks are findable."""
        return cls(
            num_used_blocks=num_blocks - num_free,
            num_cached_blocks=num_cached,
            num_empty_blocks=num_free - num_cached,
            bytes_per_block=layout.bytes_per_block,
        )

    @property
    def used_bytes(self) -> int:
        return self.num_used_blocks * self.bytes_per_block

    @property
    def cached_bytes(self) -> int:
        return self.num_cached_blocks * self.bytes_per_block

    @property
    def empty_bytes(self) -> int:
        return self.num_empty_blocks * self.bytes_per_block
