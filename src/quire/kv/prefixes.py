"""The cached prefixes as a tree: runs of blocks without a branch, each with its holders, its age and its turn to be evicted.

[ 64 tokens ] --+-- [ 32 tokens ]           three runs; the first is held or kept for both of the others
                +-- [ 96 tokens ]
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from quire.kv.block import Block
from quire.kv.events import EventLog, KVEvent, KVEventKind
from quire.kv.pool import BlockPool

_NUM_LOOKED_AT = 1024
"""Events from which the pace of allocations is taken."""

NUM_FIRST_TOKENS = 32
"""Tokens by which a run is recognized."""

TenantOf = Callable[[bytes], str | None]
"""Returns the tenant of a domain's root, if it is known (any more)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvictionOutlook:
    """When the first block of a run will be evicted if nothing asks for it: after so many more allocations.

    `num_steps` is an estimate: that many steps at the pace of the newest allocations; None while nothing is allocated.
    """

    num_allocations: int
    num_steps: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixRun:
    """Consecutive findable blocks of which only the last one branches: tokens [start, start + num_tokens).

    first_tokens   the first of them, at most NUM_FIRST_TOKENS
    num_holders    requests that hold its first block
    idle_steps     steps since one of its blocks was last shared or given back
    outlook        None where every block is held, so that none can be evicted
    tenant         None where it is not known any more
    """

    tenant: str | None
    start: int
    first_tokens: tuple[int, ...]
    num_tokens: int
    num_blocks: int
    num_held_blocks: int
    num_holders: int
    idle_steps: int
    outlook: EvictionOutlook | None


def prefix_runs(pool: BlockPool, tenant_of: TenantOf, pace: float) -> tuple[PrefixRun, ...]:
    """Returns the runs of a pool, every findable block in one of them: parents before children. `pace` is in blocks a step."""
    return _Forest(pool, tenant_of, pace).runs()


def allocations_per_step(log: EventLog) -> float:
    """Returns how many blocks were allocated in a step lately; 0 where none was."""
    events = log.since(log.num_recorded - _NUM_LOOKED_AT)
    num_allocated = sum(isinstance(event, KVEvent) and event.kind is KVEventKind.ALLOCATED for event in events)
    return num_allocated / max(1, log.step + 1 - events[0].step) if events else 0.0


class _Forest:
    """The findable blocks of a pool, by what they continue."""

    def __init__(self, pool: BlockPool, tenant_of: TenantOf, pace: float) -> None:
        self._pool = pool
        self._tenant_of = tenant_of
        self._places = {block_id: place for place, block_id in enumerate(pool.free_block_ids())}
        self._pace = pace
        self._children = defaultdict[bytes, list[Block]](list)
        for block in pool.blocks:
            if block.parent is not None:
                self._children[block.parent].append(block)

    def runs(self) -> tuple[PrefixRun, ...]:
        keys = {block.hash for block in self._pool.blocks if block.hash is not None}
        found: list[PrefixRun] = []
        for root in [parent for parent in self._children if parent not in keys]:
            tenant = self._tenant_of(root)
            pending = [(block, 0) for block in self._children[root]]
            while pending:
                block, start = pending.pop()
                blocks = self._run_from(block)
                end = start + (len(blocks) - 1) * self._pool.block_size + len(blocks[-1].token_ids)
                found.append(self._described(blocks, (start, end), tenant))
                pending += [(child, end) for child in self._after(blocks[-1])]
        return tuple(found)

    def _run_from(self, block: Block) -> list[Block]:
        blocks, children = [block], self._children
        while block.hash is not None and len(after := children.get(block.hash, [])) == 1:
            block = after[0]
            blocks.append(block)
        return blocks

    def _after(self, block: Block) -> list[Block]:
        return [] if block.hash is None else self._children.get(block.hash, [])

    def _described(self, blocks: list[Block], span: tuple[int, int], tenant: str | None) -> PrefixRun:
        start, end = span
        places = [self._places[block.id] for block in blocks if not block.ref_count]
        return PrefixRun(
            tenant=tenant,
            start=start,
            first_tokens=blocks[0].token_ids[:NUM_FIRST_TOKENS],
            num_tokens=end - start,
            num_blocks=len(blocks),
            num_held_blocks=len(blocks) - len(places),
            num_holders=blocks[0].ref_count,
            idle_steps=self._pool.events.step - max(block.used_step for block in blocks),
            outlook=self._outlook(min(places)) if places else None,
        )

    def _outlook(self, place: int) -> EvictionOutlook:
        return EvictionOutlook(num_allocations=place + 1, num_steps=(place + 1) / self._pace if self._pace else None)
