"""Why a request reused less of an earlier one than it could: the comparison that both vendors' clients may ask for.

    reusable   tokens of the earlier prompt in whole blocks, as far as this request could have used them
    cached     tokens that the cache held for this request, of whatever origin: those that `usage` tells
    missed     reusable - cached

    missed <= 0                         a hit: nothing that could be reused was computed again
    the prompts are equal that far      unavailable: evicted, not computed yet, under another salt, or no cache is used
    else                                a miss, by what changed

What changed is asked only where tokens were missed. So a name, a label or a tier that reaches no token is never a reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any

from quire.server.diagnostics_digests import ChatDigests, is_cut, num_equal_tokens
from quire.server.diagnostics_notes import PromptNote, PromptNotes


class Change(Enum):
    """What sets a prompt apart from an earlier one."""

    SYSTEM = "system"
    TOOLS = "tools"
    HISTORY_CUT = "history_cut"  # earlier messages were left out, or stand in a summary
    MESSAGES = "messages"
    THINKING = "thinking"
    RENDERING = "rendering"  # the request says the same, and the template writes it differently


class Verdict(Enum):
    """How a comparison ends."""

    HIT = "hit"
    MISS = "miss"
    NOT_FOUND = "not_found"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The end of a comparison. The counts are of tokens, and with `change` those of a miss."""

    verdict: Verdict
    change: Change | None = None
    num_missed: int = 0
    num_reusable: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A request and the earlier one that it is compared with, None where that is not known (any more)."""

    earlier: PromptNote | None
    later: PromptNote
    block_size: int

    def diagnosis(self, num_cached: int) -> Diagnosis:
        """Returns why the cache held no more than so many tokens of the request."""
        if self.earlier is None:
            return Diagnosis(verdict=Verdict.NOT_FOUND)
        room = self.later.num_tokens - 1  # the last token is always computed: its logits are wanted
        num_reusable = self._whole(min(self.earlier.num_tokens, room))
        if num_cached >= num_reusable:
            return Diagnosis(verdict=Verdict.HIT)
        is_apart = self.earlier.salt != self.later.salt
        if is_apart or self._whole(min(num_equal(self.earlier, self.later), room)) >= num_reusable:
            return Diagnosis(verdict=Verdict.UNAVAILABLE)
        return Diagnosis(
            verdict=Verdict.MISS,
            change=change_of(self.earlier.chat, self.later.chat),
            num_missed=num_reusable - num_cached,
            num_reusable=num_reusable,
        )

    def _whole(self, num_tokens: int) -> int:
        return num_tokens // self.block_size * self.block_size


def comparison_with(earlier_id: str | None, later: PromptNote, notes: PromptNotes, block_size: int) -> Comparison | None:
    """Returns the comparison of a request with an earlier answer to the same owner; None where no answer is named."""
    if earlier_id is None:
        return None
    noted = notes.get(later.owner, earlier_id)
    return Comparison(earlier=None if noted is None else noted.note, later=later, block_size=block_size)


def num_equal(earlier: PromptNote, later: PromptNote) -> int:
    """Returns how many tokens two prompts have in common at their beginning."""
    return num_equal_tokens(earlier.tokens, later.tokens)


def change_of(earlier: ChatDigests | None, later: ChatDigests | None) -> Change:
    """Returns what changed between two prompts that differ; where several things did, the one that is rendered first."""
    if earlier is None or later is None:
        return Change.MESSAGES
    if earlier.system != later.system:
        return Change.SYSTEM
    if earlier.tools != later.tools:
        return Change.TOOLS
    if not later.messages.startswith(earlier.messages):
        return Change.HISTORY_CUT if is_cut(earlier, later) else Change.MESSAGES
    return Change.THINKING if earlier.thinking != later.thinking else Change.RENDERING


_OPENAI_REASONS = MappingProxyType(
    {
        Change.SYSTEM: "input_changed",
        Change.TOOLS: "tools_changed",
        Change.HISTORY_CUT: "context_compacted",
        Change.MESSAGES: "input_changed",
        Change.THINKING: "reasoning_effort_changed",
        Change.RENDERING: "input_changed",
    }
)
_ANTHROPIC_REASONS = MappingProxyType(
    {
        Change.SYSTEM: "system_changed",
        Change.TOOLS: "tools_changed",
        Change.HISTORY_CUT: "messages_changed",
        Change.MESSAGES: "messages_changed",
    }
)
"""What is missing here differs although model, system, tools and messages agree: `unavailable` in that API's words."""


def openai_diagnostics(diagnosis: Diagnosis) -> dict[str, Any]:
    """Returns `prompt_cache_diagnostics` of a response."""
    if diagnosis.verdict is Verdict.HIT:
        return {"type": "cache_hit"}
    if diagnosis.verdict is Verdict.NOT_FOUND:
        return {"type": "comparison_response_not_found"}
    if diagnosis.change is None:
        return {"type": "unavailable"}
    return {
        "type": "cache_miss",
        "reason": _OPENAI_REASONS[diagnosis.change],
        "cache_missed_tokens": diagnosis.num_missed,
        "comparison_reusable_tokens": diagnosis.num_reusable,
    }


def anthropic_diagnostics(diagnosis: Diagnosis) -> dict[str, Any] | None:
    """Returns `diagnostics` of a message: None where nothing was missed."""
    if diagnosis.verdict is Verdict.HIT:
        return None
    if diagnosis.verdict is Verdict.NOT_FOUND:
        return {"cache_miss_reason": {"type": "previous_message_not_found"}}
    reason = None if diagnosis.change is None else _ANTHROPIC_REASONS.get(diagnosis.change)
    if reason is None:
        return {"cache_miss_reason": {"type": "unavailable"}}
    return {"cache_miss_reason": {"type": reason, "cache_missed_input_tokens": diagnosis.num_missed}}
