"""What `/v1/kv` and the diagnoses of the cache answer, as the OpenAPI file describes it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from quire.server.openapi_answers import Answered

Reason = Literal["cold", "diverged", "evicted", "partial", "disabled", "bypassed"]
Change = Literal["system", "tools", "history_cut", "messages", "thinking", "rendering"]


class Blocks(Answered):
    """Blocks in one state, the tokens in them, and their bytes."""

    blocks: int = Field(ge=0)
    tokens: int = Field(ge=0)
    bytes: int = Field(ge=0)


class Block(Answered):
    """One block of the cache, and how many requests hold it."""

    id: int = Field(ge=0)
    state: Literal["used", "cached", "empty"]
    tokens: int = Field(ge=0)
    holders: int = Field(ge=0)


class KVMapAnswer(Answered):
    """Where the cache's memory is. A server with several keys does not show single blocks."""

    object: Literal["kv.map"]
    block_size: int
    bytes_per_block: int
    num_blocks: int
    used: Blocks
    cached: Blocks
    empty: Blocks
    blocks: list[Block] | None
    next: int | None


class RequestHolding(Answered):
    """What one request holds; a block that n requests hold is the n-th part of one."""

    id: str
    tokens: int = Field(ge=0)
    reused_tokens: int = Field(ge=0)
    blocks: int = Field(ge=0)
    shared_blocks: int = Field(ge=0)
    block_share: float = Field(ge=0)
    bytes: int = Field(ge=0)
    empty_slots: int = Field(ge=0)
    own_tiles: int = Field(ge=0)
    age_steps: int | None


class TenantHolding(Answered):
    """What the requests of one tenant hold, and the free blocks with its tokens; null for those of a tenant long gone."""

    tenant: str | None
    requests: int = Field(ge=0)
    tokens: int = Field(ge=0)
    reused_tokens: int = Field(ge=0)
    block_share: float = Field(ge=0)
    bytes: int = Field(ge=0)
    empty_slots: int = Field(ge=0)
    cached_blocks: int = Field(ge=0)


class PrefixHolding(Answered):
    """Blocks of one prefix up to where others branch off, and after how many allocations the first of them is evicted."""

    first_token: int = Field(ge=0)
    tokens: int = Field(ge=0)
    text: str
    blocks: int = Field(ge=1)
    held_blocks: int = Field(ge=0)
    holders: int = Field(ge=0)
    idle_steps: int
    evicted_after_allocations: int | None
    evicted_after_steps: float | None


class KVHoldings(Answered):
    """Who holds the cache's memory. A server with several keys tells sums only."""

    object: Literal["kv.holdings"]
    step: int = Field(ge=0)
    block_size: int
    bytes_per_block: int
    used_blocks: int = Field(ge=0)
    cached_blocks: int = Field(ge=0)
    empty_blocks: int = Field(ge=0)
    held_tokens: int = Field(ge=0)
    empty_slots: int = Field(ge=0)
    own_tiles: int = Field(ge=0)
    own_tile_bytes: int = Field(ge=0)
    allocations_per_step: float = Field(ge=0)
    requests: list[RequestHolding] | None
    tenants: list[TenantHolding] | None
    prefixes: list[PrefixHolding] | None
    next: int | None


class LedgerEntry(Answered):
    """What the cache did for one answer."""

    id: str
    object: Literal["kv.ledger_entry"]
    created: int
    label: str | None
    prompts: int
    tokens: int = Field(ge=0)
    reused_tokens: int = Field(ge=0)
    reasons: list[Reason]


class LedgerPage(Answered):
    """Recent answers, the newest first."""

    object: Literal["list"]
    data: list[LedgerEntry]
    first: int
    has_more: bool


class ExplainedPrompt(Answered):
    """What the cache did for one prompt when it was let in first, and each time in words; nulls for one that waits."""

    tokens: int = Field(ge=0)
    reused_tokens: int | None
    copied_tokens: int | None
    computed_tokens: int | None
    reason: Reason | None
    diverged_at: int | None
    diverged_text: str | None
    cached_text: str | None
    evicted_steps_ago: int | None
    waited_for: int = Field(ge=0)
    text: str | None
    admissions: list[str]


class PromptComparison(Answered):
    """Where a prompt parts from that of another answer."""

    id: str
    tokens: int = Field(ge=0)
    equal_tokens: int = Field(ge=0)
    first_differing_token: int | None
    changed: Change | None
    same_salt: bool


class Explanation(Answered):
    """What the cache did for each prompt of one answer."""

    id: str
    object: Literal["kv.explanation"]
    created: int
    label: str | None
    prompts: list[ExplainedPrompt]
    comparison: PromptComparison | None = None


class CacheMiss(Answered):
    """Tokens that could have been reused were computed again."""

    type: Literal["cache_miss"]
    reason: Literal["tools_changed", "reasoning_effort_changed", "context_compacted", "input_changed"]
    cache_missed_tokens: int = Field(ge=1)
    comparison_reusable_tokens: int = Field(ge=1)


class NoCacheMiss(Answered):
    """A response that missed nothing, or of which that is not known."""

    type: Literal["cache_hit", "comparison_response_not_found", "unavailable"]


class ChangedMessage(Answered):
    """What changed against an earlier message, and the tokens that were computed again for it."""

    type: Literal["system_changed", "tools_changed", "messages_changed"]
    cache_missed_input_tokens: int = Field(ge=1)


class UnknownChange(Answered):
    """A message of which it is not known what changed."""

    type: Literal["previous_message_not_found", "unavailable"]


class MessageDiagnostics(Answered):
    """Why a message reused less of an earlier one than it could."""

    cache_miss_reason: ChangedMessage | UnknownChange
