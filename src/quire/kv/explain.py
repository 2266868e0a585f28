"""Why a request had to compute what it computed: promise 4, the explainable cache.

    tokens of a request as it is let in

    [0 ............... num_reused) [ ............ num_matched) [ ............................. num_tokens)
     in whole blocks, then copied   cached, but in a tile that   `reason` says why the match ended here
                                    had to be computed again

What lies under another tenant or salt is not looked at, so nothing of it can be said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple

from quire.kv.evicted import Eviction
from quire.kv.pool import BlockPool
from quire.kv.siblings import num_common
from quire.request import Request


class MissReason(Enum):
    """Why a match ended where it did."""

    COLD = "cold"  # nothing is cached after this prefix, and no eviction of it is remembered
    DIVERGED = "diverged"  # what is cached after this prefix continues with another token
    EVICTED = "evicted"  # more of these tokens was cached, and its memory has been given away
    PARTIAL = "partial"  # every token that could be reused is cached; those in a partly filled tile were computed again
    DISABLED = "disabled"  # the prefix cache is off
    BYPASSED = "bypassed"  # logits of all prompt tokens from here on were asked for, so they must be computed


class Divergence(NamedTuple):
    """The first position at which a request has another token than the most similar cached continuation, and both tokens.

    The texts are None until `with_texts` adds them.
    """

    position: int
    token_id: int
    cached_token_id: int
    text: str | None = None
    cached_text: str | None = None


class Loss(NamedTuple):
    """An eviction as a request may know it: `request_id` is None where another tenant's or salt's request took the memory."""

    step: int
    num_steps_ago: int
    request_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What the prefix cache did for a request when it was let in, in step `step`, for the first time or after a preemption.

    `num_tokens` are the request's tokens then; [0, num_reused_tokens) were not computed, the last `num_copied_tokens` of
    these because they were copied into its own block. `waited_for` names requests that were computing its prefix meanwhile.
    """

    step: int
    num_tokens: int
    num_reused_tokens: int
    num_copied_tokens: int = 0
    num_matched_tokens: int
    reason: MissReason
    divergence: Divergence | None = None
    loss: Loss | None = None
    waited_for: tuple[str, ...] = ()

    @property
    def num_computed_tokens(self) -> int:
        return self.num_tokens - self.num_reused_tokens

    @property
    def diverged_at(self) -> int | None:
        return None if self.divergence is None else self.divergence.position


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheExplanation:
    """What the prefix cache did for one request: its first admission, and the newest of those after preemptions."""

    request_id: str
    admissions: tuple[Admission, ...]
    num_left_out: int = 0

    @property
    def first(self) -> Admission:
        return self.admissions[0]

    @property
    def num_tokens(self) -> int:
        return self.first.num_tokens

    @property
    def num_reused_tokens(self) -> int:
        return self.first.num_reused_tokens

    @property
    def reason(self) -> MissReason:
        return self.first.reason

    @property
    def diverged_at(self) -> int | None:
        return self.first.diverged_at

    def __str__(self) -> str:
        first, *later = (sentence(admission) for admission in self.admissions)
        return "\n".join([f"{self.request_id}: {first}", *(f"  let in again: {text}" for text in later)])


class Unexplained(Enum):
    """Why nothing can be said about a request."""

    WAITING = "waiting"  # it was not let in yet
    NEVER_LET_IN = "never let in"  # it ended before, or failed in the step that let it in
    UNKNOWN = "unknown"  # it never was, or is forgotten


class Facts(NamedTuple):
    """What the manager knows when it lets a request in.

    root, parent   of the request's domain; key of the last whole block that matches, or the root
    num_whole      tokens in whole blocks that match
    num_reused     tokens that need not be computed, of which `num_copied` are copied
    limit          no token from here on could be reused, because logits are wanted
    """

    request: Request
    root: bytes
    parent: bytes
    num_whole: int
    num_reused: int
    num_copied: int
    limit: int


class _End(NamedTuple):
    """Where and why a match ended."""

    num_equal: int
    reason: MissReason
    divergence: Divergence | None = None
    loss: Loss | None = None


def explain(facts: Facts, pool: BlockPool | None, step: int, waited_for: tuple[str, ...] = ()) -> Admission:
    """Returns what the cache does for a request that is let in now, before the pool changes by that; no pool, no prefix cache."""
    num_equal, reason, divergence, loss = _End(0, MissReason.DISABLED) if pool is None else _end_of_match(facts, pool, step)
    return Admission(
        step=step,
        num_tokens=facts.request.num_tokens,
        num_reused_tokens=facts.num_reused,
        num_copied_tokens=facts.num_copied,
        num_matched_tokens=max(facts.num_whole + num_equal, facts.num_reused),
        reason=reason,
        divergence=divergence,
        loss=loss,
        waited_for=waited_for,
    )


def _end_of_match(facts: Facts, pool: BlockPool, step: int) -> _End:
    request, start = facts.request, facts.num_whole
    wanted = tuple(request.token_ids(start, min(start + pool.block_size, facts.limit)))
    cached = pool.most_similar(facts.parent, wanted) if wanted else None
    num_equal = 0 if cached is None else num_common(cached, wanted)
    if num_equal == len(wanted):
        is_scored = request.needs_prompt_logits and not request.output_token_ids
        return _End(num_equal, MissReason.BYPASSED if is_scored else MissReason.PARTIAL)
    evicted = pool.evicted.most_similar(facts.parent, wanted)
    if evicted is not None and evicted[0] > num_equal:
        return _End(num_equal, MissReason.EVICTED, loss=_loss(evicted[1], facts, step))
    if cached is None or num_equal == len(cached):
        return _End(num_equal, MissReason.COLD)
    return _End(num_equal, MissReason.DIVERGED, Divergence(start + num_equal, wanted[num_equal], cached[num_equal]))


def _loss(eviction: Eviction, facts: Facts, step: int) -> Loss:
    is_own_domain = eviction.root == facts.root
    return Loss(eviction.step, step - eviction.step, eviction.request_id if is_own_domain else None)


def with_texts(explanation: CacheExplanation, text_of: Callable[[int], str]) -> CacheExplanation:
    """Returns an explanation with the text of each token that it names."""
    admissions = tuple(_with_texts(admission, text_of) for admission in explanation.admissions)
    return replace(explanation, admissions=admissions)


def _with_texts(admission: Admission, text_of: Callable[[int], str]) -> Admission:
    found = admission.divergence
    if found is None:
        return admission
    texts = text_of(found.token_id), text_of(found.cached_token_id)
    return replace(admission, divergence=Divergence(found.position, found.token_id, found.cached_token_id, *texts))


def without_names(admission: Admission) -> Admission:
    """Returns an admission that names no other request, for a client who does not know what they are called here."""
    loss = None if admission.loss is None else admission.loss._replace(request_id=None)
    return replace(admission, loss=loss, waited_for=("another request",) if admission.waited_for else ())


def sentence(admission: Admission) -> str:
    """Returns what happened as a sentence without a full stop."""
    reused, matched = admission.num_reused_tokens, admission.num_matched_tokens
    copied = f" ({admission.num_copied_tokens} copied)" if admission.num_copied_tokens else ""
    again = f", computed {matched - reused} that match again" if matched > reused else ""
    waited = f"; waited for {', '.join(admission.waited_for)}" if admission.waited_for else ""
    return f"reused {reused} of {admission.num_tokens} tokens{copied}{again}, then {_reason(admission)}{waited}"


def _reason(admission: Admission) -> str:
    if admission.divergence is not None:
        position, _, _, text, cached_text = admission.divergence
        texts = "" if text is None else f": {text!r} here, {cached_text!r} in the cache"
        return f"diverged at token {position}{texts}"
    if admission.loss is not None:
        step, num_steps_ago, request_id = admission.loss
        return f"evicted in step {step}, {num_steps_ago} steps ago, for {request_id or 'another request'}"
    return admission.reason.value
