"""Who holds the cache's memory: by request, by tenant and by prefix, so that every block is counted exactly once.

    block     7        8        9                    shares
    held by   a b c    a b      a          a: 1/3 + 1/2 + 1      b: 1/3 + 1/2      c: 1/3      together: 3 blocks

A free block whose content can still be found belongs to no request, but to the tenant whose tokens it holds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from quire.errors import defect
from quire.kv.ledger import KVUsage
from quire.kv.pool import BlockPool
from quire.kv.prefixes import PrefixRun


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHolding:
    """What one request holds.

    num_tokens         tokens whose K/V are in its blocks; [0, num_reused_tokens) of them were there when it was let in last
    num_shared_blocks  those of its blocks that other requests hold too
    share              blocks, of each that n requests hold the n-th part
    num_empty_slots    of its last block
    age_steps          steps since it was let in; None while it waits and holds nothing
    """

    request_id: str
    tenant: str
    num_tokens: int
    num_reused_tokens: int
    num_blocks: int
    num_shared_blocks: int
    share: Fraction
    num_empty_slots: int
    num_own_tiles: int
    age_steps: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantHolding:
    """What the requests of one tenant hold together, and the free blocks in which its tokens can still be found.

    `tenant` is None for cached blocks of which it is not known any more.
    """

    tenant: str | None
    num_requests: int
    num_tokens: int
    num_reused_tokens: int
    share: Fraction
    num_empty_slots: int
    num_own_tiles: int
    num_cached_blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KVLedger:
    """Where every block of the pool is after step `step`: by request, by tenant, and by prefix.

    `allocations_per_step` is what the newest events of the log show; the estimates of `prefixes` are made with it.
    """

    step: int
    usage: KVUsage
    block_size: int
    num_own_tiles: int
    bytes_per_own_tile: int
    allocations_per_step: float
    requests: tuple[RequestHolding, ...]
    tenants: tuple[TenantHolding, ...]
    prefixes: tuple[PrefixRun, ...]

    @property
    def num_empty_slots(self) -> int:
        """Slots of held blocks without a token."""
        return sum(request.num_empty_slots for request in self.requests)

    @property
    def num_held_tokens(self) -> int:
        """Tokens in held blocks, those of a shared block once."""
        return self.usage.num_used_blocks * self.block_size - self.num_empty_slots

    @property
    def waste(self) -> float:
        """The part of the held slots that is empty."""
        num_slots = self.usage.num_used_blocks * self.block_size
        return self.num_empty_slots / num_slots if num_slots else 0.0

    def bytes_of(self, share: Fraction, num_own_tiles: int = 0) -> int:
        """Returns the bytes of a share of blocks and of own tiles."""
        return round(share * self.usage.bytes_per_block) + num_own_tiles * self.bytes_per_own_tile

    def check(self) -> None:
        """Raises IntegrityError unless requests, tenants and prefixes each sum up to the pool."""
        used, cached = self.usage.num_used_blocks, self.usage.num_cached_blocks
        for name, holdings in (("requests", self.requests), ("tenants", self.tenants)):
            share = sum((holding.share for holding in holdings), Fraction())
            if share != used:
                raise defect(f"{name} hold {share} blocks, {used} are used")
        num_cached = sum(tenant.num_cached_blocks for tenant in self.tenants)
        num_in_runs = sum(run.num_blocks - run.num_held_blocks for run in self.prefixes)
        if not num_cached == num_in_runs == cached:
            raise defect(f"{num_cached} blocks of tenants and {num_in_runs} of prefixes are cached, {cached} are counted")
        num_tokens = sum(request.num_tokens for request in self.requests)
        if num_tokens != sum(tenant.num_tokens for tenant in self.tenants) or num_tokens < self.num_held_tokens:
            raise defect(f"requests hold {num_tokens} tokens, tenants others, or the pool {self.num_held_tokens}")
        if sum(request.num_own_tiles for request in self.requests) != self.num_own_tiles:
            raise defect(f"{self.num_own_tiles} own tiles are used, requests hold others")


def shares_of(tables: Mapping[str, Iterable[int]], pool: BlockPool) -> dict[str, Fraction]:
    """Returns how many blocks each table holds, a block with n holders being the n-th part of one."""
    blocks = pool.blocks
    shares: dict[str, Fraction] = {}
    for name, block_ids in tables.items():
        num_by_holders: dict[int, int] = defaultdict(int)
        for block_id in block_ids:
            num_by_holders[blocks[block_id].ref_count] += 1
        shares[name] = sum((Fraction(count, holders) for holders, count in num_by_holders.items()), Fraction())
    return shares


def by_tenant(requests: Iterable[RequestHolding], runs: Iterable[PrefixRun]) -> tuple[TenantHolding, ...]:
    """Returns what tenants hold, by their names."""
    held, cached = defaultdict[str | None, list[RequestHolding]](list), defaultdict[str | None, int](int)
    for request in requests:
        held[request.tenant].append(request)
    for run in runs:
        cached[run.tenant] += run.num_blocks - run.num_held_blocks
    names = sorted({*held, *cached}, key=lambda name: (name is None, name or ""))
    return tuple(_tenant(name, held[name], cached[name]) for name in names)


def _tenant(name: str | None, requests: list[RequestHolding], num_cached: int) -> TenantHolding:
    return TenantHolding(
        tenant=name,
        num_requests=len(requests),
        num_tokens=sum(request.num_tokens for request in requests),
        num_reused_tokens=sum(request.num_reused_tokens for request in requests),
        share=sum((request.share for request in requests), Fraction()),
        num_empty_slots=sum(request.num_empty_slots for request in requests),
        num_own_tiles=sum(request.num_own_tiles for request in requests),
        num_cached_blocks=num_cached,
    )
