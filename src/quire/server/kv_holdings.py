"""`GET /v1/kv/holdings`: what requests, tenants and prefixes hold of the cache's memory, for whoever operates the server.

Where there are several keys, sums only: who holds what would tell the others what a key computes.
"""

from __future__ import annotations

from typing import Any

from quire.kv.holdings import KVLedger, RequestHolding, TenantHolding
from quire.kv.prefixes import PrefixRun
from quire.text.tokenizer import Tokenizer


def holdings_fields(ledger: KVLedger, rows: range | None, tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns the ledger as JSON; of requests and prefixes those of a page, the largest first, none without `rows`."""
    usage = ledger.usage
    fields: dict[str, Any] = {
        "object": "kv.holdings",
        "step": ledger.step,
        "block_size": ledger.block_size,
        "bytes_per_block": usage.bytes_per_block,
        "used_blocks": usage.num_used_blocks,
        "cached_blocks": usage.num_cached_blocks,
        "empty_blocks": usage.num_empty_blocks,
        "held_tokens": ledger.num_held_tokens,
        "empty_slots": ledger.num_empty_slots,
        "own_tiles": ledger.num_own_tiles,
        "own_tile_bytes": ledger.num_own_tiles * ledger.bytes_per_own_tile,
        "allocations_per_step": ledger.allocations_per_step,
        "requests": None,
        "tenants": None,
        "prefixes": None,
        "next": None,
    }
    if rows is not None:
        requests = sorted(ledger.requests, key=lambda request: -request.share)
        prefixes = sorted(ledger.prefixes, key=lambda run: -run.num_blocks)
        fields["requests"] = [_request(request, ledger) for request in requests[rows.start : rows.stop]]
        fields["tenants"] = [_tenant(tenant, ledger) for tenant in ledger.tenants]
        fields["prefixes"] = [_prefix(run, tokenizer) for run in prefixes[rows.start : rows.stop]]
        fields["next"] = rows.stop if rows.stop < max(len(requests), len(prefixes)) else None
    return fields


def _request(request: RequestHolding, ledger: KVLedger) -> dict[str, Any]:
    return {
        "id": request.request_id,
        "tokens": request.num_tokens,
        "reused_tokens": request.num_reused_tokens,
        "blocks": request.num_blocks,
        "shared_blocks": request.num_shared_blocks,
        "block_share": float(request.share),
        "bytes": ledger.bytes_of(request.share, request.num_own_tiles),
        "empty_slots": request.num_empty_slots,
        "own_tiles": request.num_own_tiles,
        "age_steps": request.age_steps,
    }


def _tenant(tenant: TenantHolding, ledger: KVLedger) -> dict[str, Any]:
    return {
        "tenant": tenant.tenant,
        "requests": tenant.num_requests,
        "tokens": tenant.num_tokens,
        "reused_tokens": tenant.num_reused_tokens,
        "block_share": float(tenant.share),
        "bytes": ledger.bytes_of(tenant.share, tenant.num_own_tiles),
        "empty_slots": tenant.num_empty_slots,
        "cached_blocks": tenant.num_cached_blocks,
    }


def _prefix(run: PrefixRun, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "first_token": run.start,
        "tokens": run.num_tokens,
        "text": tokenizer.decode(run.first_tokens, skip_special=False),
        "blocks": run.num_blocks,
        "held_blocks": run.num_held_blocks,
        "holders": run.num_holders,
        "idle_steps": run.idle_steps,
        "evicted_after_allocations": None if run.outlook is None else run.outlook.num_allocations,
        "evicted_after_steps": None if run.outlook is None else run.outlook.num_steps,
    }
