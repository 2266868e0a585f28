"""Knows which tokens were written into which slot, and says by brute force what has to be explained of every admission.

Of the engine it takes the order in which blocks change hands (the log), which tokens each step computes (the plan), and what the
ledger claims; nothing of keys, tables, siblings or remembered evictions. A content is a domain and *all* tokens up to a slot.

    python -m support.explain_oracle 100000        a larger run, from the directory `tests`
"""

from __future__ import annotations

import sys
import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from quire.config import PrefixCache
from quire.kv.events import KVEvent
from quire.kv.evicted import MAX_EVICTIONS
from quire.kv.explain import Admission, CacheExplanation, MissReason
from quire.request import Request
from quire.sched.plan import StepPlan
from support.traffic import Shape, Traffic, Watcher

Domain = tuple[str, str]
Tokens = tuple[int, ...]
Content = tuple[Domain, Tokens]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What must be said of an admission. Where several contents are equally similar, any of them may be named."""

    step: int
    num_tokens: int
    num_whole: int
    num_matched: int
    reason: MissReason
    divergences: frozenset[tuple[int, int, int]] = frozenset()
    losses: frozenset[tuple[int, int, str | None]] = frozenset()


@dataclass(slots=True)
class Memory:
    """The slots of a pool, what can be found in its blocks, and what was evicted, the newest last."""

    block_size: int
    num_blocks: int
    written: dict[int, Content] = field(default_factory=dict)
    findable: dict[int, Content] = field(default_factory=dict)
    evicted: OrderedDict[Content, tuple[int, str, Domain]] = field(default_factory=OrderedDict)

    def expect(self, request: Request, step: int) -> Expected:
        """Returns what must be said of a request that is let in now."""
        size, tokens, domain = self.block_size, tuple(request.token_ids(0, request.num_tokens)), domain_of(request)
        limit = request.first_logits_at
        found = {content for owner, content in self.findable.values() if owner == domain}
        num_whole = 0
        while num_whole + size <= limit and tokens[: num_whole + size] in found:
            num_whole += size
        stop = min(num_whole + size, limit)
        similar = _most_similar(found, tokens, num_whole, stop, size)
        num_matched = similar[0] if similar[1] else num_whole
        facts = {"step": step, "num_tokens": len(tokens), "num_whole": num_whole, "num_matched": num_matched}
        if num_matched == stop:
            is_scored = request.needs_prompt_logits and not request.output_token_ids
            return Expected(reason=MissReason.BYPASSED if is_scored else MissReason.PARTIAL, **facts)
        lost = {content for owner, content in self.evicted if owner == domain}
        num_lost, which = _most_similar(lost, tokens, num_whole, stop, size)
        if which and num_lost > num_matched:
            losses = frozenset(self._loss(content, domain, step) for content in which)
            return Expected(reason=MissReason.EVICTED, losses=losses, **facts)
        others = frozenset(
            (num_matched, tokens[num_matched], each[num_matched]) for each in similar[1] if len(each) > num_matched
        )
        return Expected(reason=MissReason.DIVERGED if others else MissReason.COLD, divergences=others, **facts)

    def _loss(self, content: Tokens, domain: Domain, step: int) -> tuple[int, int, str | None]:
        lost_in, request_id, owner = self.evicted[domain, content]
        return lost_in, step - lost_in, request_id if owner == domain else None

    def evict(self, block_id: int, step: int, request_id: str, domain: Domain) -> None:
        content = self.findable.pop(block_id)
        self.evicted.pop(content, None)
        self.evicted[content] = (step, request_id, domain)
        if len(self.evicted) > min(self.num_blocks, MAX_EVICTIONS):
            self.evicted.popitem(last=False)


def domain_of(request: Request) -> Domain:
    return request.tenant, request.cache_salt


def _most_similar(contents: set[Tokens], tokens: Tokens, start: int, stop: int, size: int) -> tuple[int, list[Tokens]]:
    """Returns how far tokens agree with contents of the block that begins at `start`, and those that agree most."""
    best, which = start, list[Tokens]()
    for content in contents:
        if start < len(content) <= start + size and content[:start] == tokens[:start]:
            end = min(len(content), stop)
            equal = next((at for at in range(start, end) if content[at] != tokens[at]), end)
            if equal > best:
                best, which = equal, []
            if equal == best:
                which.append(content)
    return best, which


class Oracle:
    """Follows the traffic of one pool and compares every explanation. `tally` counts reasons and what was seen."""

    def __init__(self, shape: Shape, seed: int, tally: Counter[str]) -> None:
        self.tally = tally
        watcher = Watcher(
            submitted=self._submitted, planned=self._planned, written=self._written, settled=self._settle, ended=self._ended
        )
        self.traffic = Traffic(shape, seed, watcher)
        self.memory = Memory(shape.block_size, shape.num_blocks)
        self.has_cache = shape.prefix_cache is PrefixCache.ON
        self.requests: dict[str, Request] = {}
        self.seen: dict[str, Request] = {}  # also those that ended
        self.tables: dict[str, list[int]] = {}
        self.expected: dict[str, list[Expected]] = {}
        self.new: list[str] = []  # let in by the plan in flight

    def turn(self) -> None:
        """Computes one step and compares what it brings to an end."""
        self.traffic.turn()
        pool = self.traffic.manager.pool
        self.tally["steps"] += 1
        if self.has_cache:
            self.tally["blocks"] += pool.num_blocks
            self.tally["empty"] += pool.num_free - pool.num_cached

    def _submitted(self, request: Request) -> None:
        self.requests[request.request_id] = self.seen[request.request_id] = request
        self.expected[request.request_id] = []

    def _planned(self, plan: StepPlan) -> None:
        self.new.clear()
        self._fold()
        for chunk in plan.scheduled:
            if chunk.request_id in self.new:
                (*_, admission) = self._explained(chunk.request_id).admissions
                require(admission.num_reused_tokens == chunk.start, "another count than the step reuses")
                self._require_slots(chunk.request_id, chunk.block_ids, chunk.start)

    def _require_slots(self, request_id: str, block_ids: Sequence[int], num_reused: int) -> None:
        """The slots behind reused tokens must hold exactly these tokens."""
        request, size = self.requests[request_id], self.memory.block_size
        for start in range(0, num_reused, size):
            stop = min(start + size, num_reused)
            domain, content = self.memory.written[block_ids[start // size]]
            is_same = domain == domain_of(request) and content[:stop] == tuple(request.token_ids(0, stop))
            require(is_same, "a token is called reused whose slot holds another")

    def _written(self, plan: StepPlan, has_failed: bool) -> None:
        size = self.memory.block_size
        for chunk in plan.scheduled:
            request = self.requests[chunk.request_id]
            for start in range(chunk.start // size * size, chunk.stop, size):
                stop = min(start + size, chunk.stop) if not has_failed else max(start, chunk.start)
                self.memory.written[chunk.block_ids[start // size]] = domain_of(request), tuple(request.token_ids(0, stop))
        if has_failed:
            for request_id in self.new:  # nothing of this admission remains
                self.expected[request_id].pop()
                self.tally["taken back"] += 1

    def _copy(self, request_id: str, target: int) -> None:
        """A block gets tokens of another one, which the request holds meanwhile."""
        request, (*_, admission) = self.requests[request_id], self._explained(request_id).admissions
        copied = domain_of(request), tuple(request.token_ids(0, admission.num_reused_tokens))
        stop, sources = len(copied[1]), [self.memory.written.get(block_id) for block_id in self.tables[request_id]]
        is_there = any(source is not None and (source[0], source[1][:stop]) == copied for source in sources)
        require(is_there, "tokens are copied from a block that has others")
        self.memory.written[target] = copied
        self.tally["copied"] += 1

    def _settle(self) -> None:
        self.new.clear()
        self._fold()
        require(not self.new, "a request is let in outside of a plan")

    def _ended(self, request: Request) -> None:
        expected, found = self.expected.pop(request.request_id), self.traffic.manager.explain(request.request_id)
        admissions = found.admissions if isinstance(found, CacheExplanation) else ()
        require(len(admissions) == len(expected), "an admission is missing or was never there")
        reused = admissions[0].num_reused_tokens if admissions else 0
        require(request.num_cached_tokens == reused, "output and ledger tell two stories")
        for admission, wanted in zip(admissions, expected, strict=True):
            self._compare(admission, wanted, self.requests[request.request_id])
        self.tally["requests"] += 1
        self.tally["let in again"] += max(0, len(admissions) - 1)
        del self.requests[request.request_id]

    def _compare(self, found: Admission, wanted: Expected, request: Request) -> None:
        if not self.has_cache:
            require(found.reason is MissReason.DISABLED and not found.num_reused_tokens, "a cache although it is off")
            return
        facts = (found.step, found.num_tokens, found.num_matched_tokens, found.reason)
        required = (wanted.step, wanted.num_tokens, wanted.num_matched, wanted.reason)
        require(facts == required, f"{request.request_id}: {facts} is told, {required} is true")
        require(wanted.num_whole <= found.num_reused_tokens <= wanted.num_matched, "more is reused than matches, or less")
        divergence = None if found.divergence is None else tuple(found.divergence)[:3]
        require(divergence in (wanted.divergences or {None}), f"{divergence} is told, one of {wanted.divergences} is true")
        loss = None if found.loss is None else tuple(found.loss)
        require(loss in (wanted.losses or {None}), f"{loss} is told, one of {wanted.losses} is true")
        for other in map(self.seen.get, found.waited_for):
            is_like = other is not None and domain_of(other) == domain_of(request)
            require(is_like and other.prompt_token_ids[0] == request.prompt_token_ids[0], "waited for a request that is unlike")
        self.tally["waited"] += bool(found.waited_for)
        self.tally["computed again"] += found.num_reused_tokens < found.num_matched_tokens
        self.tally[found.reason.value] += 1
        self.tally["lost to another domain"] += loss is not None and loss[2] is None

    def _explained(self, request_id: str) -> CacheExplanation:
        found = self.traffic.manager.explain(request_id)
        require(isinstance(found, CacheExplanation), f"a request is let in and not explained: {found}")
        assert isinstance(found, CacheExplanation)
        return found

    def _fold(self) -> None:
        for event in self.traffic.manager.pool.events.take():
            if isinstance(event, KVEvent):
                self._apply(event)

    def _apply(self, event: KVEvent) -> None:
        kind, block_id, request_id = event.kind.value, event.block_id, event.request_id
        memory, table = self.memory, self.tables.setdefault(request_id, [])
        if not table and kind in ("allocated", "shared", "evicted") and request_id not in self.new:
            self.expected[request_id].append(memory.expect(self.requests[request_id], event.step))
            self.new.append(request_id)
        if kind in ("allocated", "shared"):
            table.append(block_id)
        elif kind == "released":
            table.remove(block_id)
        elif kind in ("committed", "offered"):
            memory.findable[block_id] = memory.written[block_id]
        elif kind in ("duplicate", "superseded"):
            memory.findable.pop(block_id, None)
        elif kind == "copied":
            self._copy(request_id, block_id)
        elif kind == "evicted":
            memory.evict(block_id, event.step, request_id, domain_of(self.requests[request_id]))


def require(fact: bool, message: str) -> None:
    if not fact:
        raise AssertionError(message)


SHAPES = (
    Shape(),
    Shape(block_size=2, num_blocks=34, budget=9, max_num_seqs=4),
    Shape(block_size=8, num_blocks=12, budget=40, max_num_seqs=5),
    Shape(block_size=3, num_blocks=21, budget=5, num_live=14),
    Shape(block_size=4, num_blocks=15, max_num_seqs=8, num_live=12, failing=0.2),
    Shape(tile=4),
    Shape(block_size=8, num_blocks=14, budget=40, max_num_seqs=4, tile=4),
    Shape(prefix_cache=PrefixCache.OFF, num_live=4),
)


def compare(num_requests: int, tally: Counter[str]) -> None:
    """Follows this many requests in pools of several shapes that are always full; raises AssertionError at the first lie."""
    for seed, shape in enumerate(SHAPES):
        oracle = Oracle(shape, seed, tally)
        share = num_requests // 50 if shape.prefix_cache is PrefixCache.OFF else num_requests // (len(SHAPES) - 1)
        until = tally["requests"] + share
        while tally["requests"] < until:
            oracle.turn()


if __name__ == "__main__":
    began_s, counted = time.process_time(), Counter[str]()
    compare(int(sys.argv[1]), counted)
    counts = ", ".join(f"{count} {name}" for name, count in sorted(counted.items()))
    sys.stdout.write(f"{counts} in {time.process_time() - began_s:.0f} s\n")
