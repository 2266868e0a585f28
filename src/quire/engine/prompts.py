"""The forms in which prompts are accepted, told apart once."""

from __future__ import annotations

from collections.abc import Sequence

from quire.errors import RequestError
from quire.request import SamplingParams

Prompt = str | Sequence[int]
Prompts = Prompt | Sequence[Prompt]


def split_prompts(prompts: Prompts) -> list[Prompt]:
    """Returns the prompts one by one: a text or a list of token ids is one prompt, a list of those is many."""
    if isinstance(prompts, str):
        return [prompts]
    if not isinstance(prompts, Sequence):
        raise _not_a_prompt(prompts)
    many: list[Prompt] = []
    for item in prompts:
        if isinstance(item, int):
            return [token_ids_of(prompts)]
        many.append(item if isinstance(item, str) else token_ids_of(item))
    return many


def token_ids_of(prompt: object) -> tuple[int, ...]:
    """Returns a prompt of token ids; raises RequestError for anything that is not a sequence of integers."""
    if not isinstance(prompt, Sequence) or not all(isinstance(item, int) and not isinstance(item, bool) for item in prompt):
        raise _not_a_prompt(prompt)
    return tuple(prompt)


def one_param_each(
    prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams] | None
) -> Sequence[SamplingParams]:
    """Returns the sampling parameters of every prompt; raises RequestError where the numbers differ."""
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * len(prompts)
    if len(params) != len(prompts):
        raise RequestError(
            "there must be one SamplingParams for all prompts or one for each",
            given=f"{len(params)} for {len(prompts)} prompts",
            next_step="Pass a single SamplingParams, or as many as prompts.",
        )
    return params


def _not_a_prompt(given: object) -> RequestError:
    return RequestError(
        "a prompt is a text or a list of token ids",
        given=type(given).__name__,
        next_step="Pass a string, a list of integers, or a list of those.",
    )
