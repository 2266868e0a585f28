"""The KV ledger of a core, as the thread that steps sees it between two steps."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from quire.engine.core import EngineCore
from quire.kv.explain import CacheExplanation
from quire.kv.holdings import KVLedger, RequestHolding, by_tenant, shares_of
from quire.kv.layout import KVLayout
from quire.kv.manager import KVCacheManager
from quire.kv.prefixes import allocations_per_step, prefix_runs
from quire.request import Request


def kv_ledger(core: EngineCore) -> KVLedger:
    """Returns where every block is. Walks the whole pool; only for the thread that steps, between two steps."""
    return ledger_of(core.scheduler.manager, core.requests, core.executor.layout)


def ledger_of(manager: KVCacheManager, requests: Iterable[Request], layout: KVLayout) -> KVLedger:
    """Returns the ledger of a manager and of the unfinished requests that have tables in it."""
    tables = {request.request_id: manager.block_ids(request.request_id) for request in requests}
    shares = shares_of(tables, manager.pool)
    holdings = tuple(_holding(manager, request, shares[request.request_id]) for request in requests)
    pace = allocations_per_step(manager.pool.events)
    runs = prefix_runs(manager.pool, manager.ledger.tenant_of, pace)
    return KVLedger(
        step=manager.pool.events.step,
        usage=manager.usage(layout),
        block_size=manager.pool.block_size,
        num_own_tiles=manager.own_tiles.num_taken,
        bytes_per_own_tile=layout.bytes_per_own_tile,
        allocations_per_step=pace,
        requests=holdings,
        tenants=by_tenant(holdings, runs),
        prefixes=runs,
    )


def _holding(manager: KVCacheManager, request: Request, share: Fraction) -> RequestHolding:
    request_id, pool = request.request_id, manager.pool
    block_ids, found = manager.block_ids(request_id), manager.explain(request_id)
    last = found.admissions[-1] if isinstance(found, CacheExplanation) and block_ids else None
    return RequestHolding(
        request_id=request_id,
        tenant=request.tenant,
        num_tokens=request.num_computed_tokens,
        num_reused_tokens=0 if last is None else last.num_reused_tokens,
        num_blocks=len(block_ids),
        num_shared_blocks=sum(pool.blocks[block_id].ref_count > 1 for block_id in block_ids),
        share=share,
        num_empty_slots=len(block_ids) * pool.block_size - request.num_computed_tokens,
        num_own_tiles=int(manager.own_tiles.count > 0 and bool(block_ids)),
        age_steps=None if last is None else pool.events.step - last.step,
    )
