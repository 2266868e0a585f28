"""Prompts of `/v1/completions`, `/v1/score` and `/tokenize`: texts or token ids, one or many."""

from __future__ import annotations

import os
from dataclasses import replace

from quire.engine.prompts import ParsedPrompt, read_prompt
from quire.server.errors import ApiError, refuse
from quire.server.fields import SamplingFields
from quire.server.planning import require_fitting_ids
from quire.server.service import Service

_BYPASS_BYTES = 16


def read_prompts(prompt: object, service: Service) -> list[ParsedPrompt]:
    """Returns prompts in their order. A text or a list of token ids is one prompt, a list of those is many."""
    if isinstance(prompt, str) or _is_ids(prompt):
        return [one_prompt(prompt, service, "prompt")]
    if not isinstance(prompt, list):
        raise _not_a_prompt("prompt")
    if not 1 <= len(prompt) <= service.limits.prompts:
        raise refuse(f"a request has 1 to {service.limits.prompts} prompts", "Send them in several requests.", param="prompt")
    return [one_prompt(each, service, f"prompt.{idx}") for idx, each in enumerate(prompt)]


def one_prompt(prompt: object, service: Service, place: str) -> ParsedPrompt:
    """Returns one prompt; raises ApiError for what is neither text nor token ids of the model."""
    require_prompt(prompt, service, place)
    return read_prompt(prompt, service.engine.tokenizer)


def salted(prompt: ParsedPrompt, request: SamplingFields) -> ParsedPrompt:
    """Returns a prompt that shares the cache with those of the same salt only.

    `cache_prompt: false` draws a salt: nothing is taken from the cache, and no other prompt finds what this one puts there.
    """
    salt = os.urandom(_BYPASS_BYTES).hex() if request.cache_prompt is False else request.cache_salt or ""
    return replace(prompt, cache_salt=salt) if salt else prompt


def require_prompt(prompt: object, service: Service, place: str) -> None:
    """Raises ApiError for what is neither text nor token ids of the model, and for what certainly does not fit."""
    if isinstance(prompt, list):
        require_fitting_ids(len(prompt), service)
        require_ids(prompt, service, place)
    elif not isinstance(prompt, str):
        raise _not_a_prompt(place)
    elif service.text_bound is not None:
        service.text_bound.require(prompt)


def require_ids(token_ids: list[object], service: Service, place: str) -> None:
    """Raises ApiError for an entry that is no id the model has logits for."""
    for idx, token_id in enumerate(token_ids):
        if isinstance(token_id, bool) or not isinstance(token_id, int) or not 0 <= token_id < service.vocab_size:
            raise refuse(
                f"{place}.{idx} is not a token id of the model",
                f"Send integers from 0 to {service.vocab_size - 1}.",
                param=f"{place}.{idx}",
            )


def _is_ids(prompt: object) -> bool:
    return isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], int)


def _not_a_prompt(place: str) -> ApiError:
    return refuse(f"{place} must be a text or a list of token ids", "Send a string, or a list of integers.", param=place)
