"""From prompts and parameters to a generation that the engine has checked. What can be refused is refused here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from quire.engine.prompts import ParsedPrompt
from quire.sampling import SamplingParams
from quire.server.errors import refuse
from quire.server.fields import SamplingFields, is_greedy, sampling_of, seed_of
from quire.server.generation import Generation, MaxTokens
from quire.server.service import Service
from quire.server.text_bound import prompt_too_long


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a request asks for beyond its prompts: `max_tokens` None goes on until the context is full, 0 only scores."""

    params: Mapping[str, Any]
    n: int
    seed: int | None
    max_tokens: int | None
    priority: int
    tenant: str
    reports_prompt: bool = False


def wish_of(request: SamplingFields, service: Service, tenant: str, *, logprobs: int | None, max_tokens: int | None) -> Wish:
    """Returns what the shared fields ask for, with the log-probabilities and the length as an API spells them."""
    limits = service.limits
    params = sampling_of(request, service.model.recommended, limits)
    n = 1 if request.n is None else request.n
    if not 1 <= n <= limits.completions:
        raise refuse(f"n must be from 1 to {limits.completions}", "Pass n within that range.", param="n")
    if request.stream is True and request.prompt_logprobs is not None:
        raise refuse("a stream has no prompt_logprobs", "Leave out one of the two.", param="prompt_logprobs")
    return Wish(
        params=params | {"logprobs": logprobs},
        n=n,
        seed=None if is_greedy(params) else seed_of(request.seed),
        max_tokens=max_tokens,
        priority=request.priority or 0,
        tenant=tenant,
        reports_prompt=request.stream is True and request.return_progress is True,
    )


def plan(prompts: Sequence[ParsedPrompt], wish: Wish, service: Service) -> Generation:
    """Returns the generation; raises ApiError or RequestError for what can never be answered.

    What `max_tokens` asks for beyond the context is cut; a prompt never is.
    """
    if len(prompts) * wish.n > service.limits.choices:
        raise refuse(f"a request has at most {service.limits.choices} choices", "Send fewer prompts, or lower n.", param="n")
    is_shared = is_greedy(wish.params)
    rooms = [_room_behind(prompt, service) for prompt in prompts]
    _require_few_entries(prompts, wish, service)
    params = [_fitting_params(wish, room, n=1 if is_shared else wish.n) for room in rooms]
    submission = service.engine.frontend.submission
    submissions = [
        submission(prompt, each, priority=wish.priority, tenant=wish.tenant) for prompt, each in zip(prompts, params, strict=True)
    ]
    if wish.reports_prompt:
        submissions = [replace(each, reports_prompt=True) for each in submissions]
    requested = wish.max_tokens
    return Generation(
        groups=tuple(service.engine.check(submissions)),
        num_choices=wish.n,
        max_tokens=MaxTokens(requested=requested, kept=None if requested is None else min(requested, *rooms)),
        seed=wish.seed,
        is_shared=is_shared,
        drops_output=requested == 0,
    )


def require_fitting(prompt: ParsedPrompt, service: Service) -> None:
    """Raises ApiError for a prompt that leaves no room for a token; both numbers are told."""
    require_fitting_ids(len(prompt.token_ids), service)


def require_fitting_ids(num_tokens: int, service: Service) -> None:
    """Raises the same for the number of tokens alone: known before any token is looked at."""
    if num_tokens > service.max_context - 1:
        raise prompt_too_long(num_tokens, service.max_context)


def _require_few_entries(prompts: Sequence[ParsedPrompt], wish: Wish, service: Service) -> None:
    """Raises ApiError for log-probabilities of prompts that would fill the memory: every choice repeats them."""
    num_top = wish.params.get("prompt_logprobs")
    num_entries = 0 if num_top is None else sum(len(prompt.token_ids) for prompt in prompts) * (num_top + 1) * wish.n
    if num_entries > service.limits.prompt_entries:
        raise refuse(
            f"the answer would hold {num_entries} log-probabilities of prompts > {service.limits.prompt_entries} maximum",
            "Ask for fewer candidates or choices, or send fewer prompts.",
            param="prompt_logprobs",
        )


def _room_behind(prompt: ParsedPrompt, service: Service) -> int:
    """Returns the tokens that fit behind a prompt, at least one; raises ApiError where none does."""
    require_fitting(prompt, service)
    return service.max_context - len(prompt.token_ids)


def _fitting_params(wish: Wish, room: int, *, n: int) -> SamplingParams:
    """Returns the parameters for a prompt with so much room behind it."""
    params, max_tokens = dict(wish.params), wish.max_tokens
    if max_tokens is not None:
        fitting = min(max(max_tokens, 1), room)
        if params.get("min_tokens", 0) <= max_tokens:
            params["min_tokens"] = min(params.get("min_tokens", 0), fitting)
        max_tokens = fitting
    return SamplingParams(**params, n=n, seed=wish.seed, max_tokens=max_tokens)
