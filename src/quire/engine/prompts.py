"""The forms in which prompts, sampling parameters and priorities are accepted, told apart once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quire.errors import RequestError
from quire.request import SamplingParams

Prompt = str | Sequence[int] | npt.NDArray[np.integer] | Mapping[str, object]
Prompts = Prompt | Sequence[Prompt]
GivenContext = str | Sequence[int] | npt.NDArray[np.integer]

_KEYS = ("prompt", "prompt_token_ids", "cache_salt")


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenPrompt:
    """One prompt. At least one of `text` and `token_ids` is there; where both are, the ids are those of the text."""

    text: str | None = None
    token_ids: tuple[int, ...] | None = None
    cache_salt: str = ""


def split_prompts(prompts: object) -> list[GivenPrompt]:
    """Returns the prompts one by one: a text, a list of token ids or a dictionary is one prompt, a list of those is many."""
    if isinstance(prompts, (str, Mapping)):
        return [read_prompt(prompts)]
    items = _items(prompts)
    if items and isinstance(items[0], (int, np.integer)):
        return [read_prompt(prompts)]
    return [read_prompt(item) for item in items]


def read_prompt(prompt: object) -> GivenPrompt:
    """Returns one prompt; raises RequestError for what is neither text, nor integers, nor a dictionary of those."""
    if isinstance(prompt, str):
        return GivenPrompt(text=prompt)
    if isinstance(prompt, Mapping):
        return _read_dictionary(prompt)
    return GivenPrompt(token_ids=_read_token_ids(prompt))


def one_param_each(num_prompts: int, sampling_params: object) -> list[SamplingParams]:
    """Returns the sampling parameters of every prompt; raises RequestError where the numbers differ."""
    if sampling_params is None or isinstance(sampling_params, SamplingParams):
        return [read_params(sampling_params)] * num_prompts
    if isinstance(sampling_params, (str, bytes)) or not isinstance(sampling_params, Sequence):
        raise _not_params(sampling_params)
    for each in sampling_params:
        if not isinstance(each, SamplingParams):
            raise _not_params(each)
    _require_as_many("SamplingParams", len(sampling_params), num_prompts)
    return list(sampling_params)


def read_params(sampling_params: object) -> SamplingParams:
    """Returns the sampling parameters of one prompt, the defaults for None; raises RequestError for anything else."""
    if sampling_params is None:
        return SamplingParams()
    if not isinstance(sampling_params, SamplingParams):
        raise _not_params(sampling_params)
    return sampling_params


def one_priority_each(num_prompts: int, priority: object) -> list[int]:
    """Returns the priority of every prompt; raises RequestError where the numbers differ."""
    if isinstance(priority, (str, bytes)) or not isinstance(priority, Sequence):
        return [read_priority(priority)] * num_prompts
    _require_as_many("priority", len(priority), num_prompts)
    return [read_priority(each) for each in priority]


def read_priority(priority: object) -> int:
    """Returns the priority of one prompt; raises RequestError unless it is an integer."""
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise RequestError(
            "a priority is an integer", given=type(priority).__name__, next_step="Pass priority=0, or less to be served earlier."
        )
    return priority


def _read_dictionary(prompt: Mapping[object, object]) -> GivenPrompt:
    unknown = [key for key in prompt if key not in _KEYS]
    if unknown:
        raise RequestError(
            "a prompt's dictionary has a key that is not understood",
            given=repr(unknown[0])[:40],
            next_step=f"Use {', '.join(_KEYS)}.",
        )
    text, token_ids, salt = (prompt.get(key) for key in _KEYS)
    if text is not None and token_ids is not None:
        raise RequestError(
            "a prompt is given as a text and as token ids, of which one would be ignored",
            given='"prompt" and "prompt_token_ids"',
            next_step="Pass one of them.",
        )
    if not (text is None or isinstance(text, str)) or (text is None and token_ids is None):
        raise _not_a_prompt(text)
    if salt is not None and (not isinstance(salt, str) or not _is_unicode(salt)):
        raise RequestError("cache_salt is a text", given=type(salt).__name__, next_step="Pass a string or leave it out.")
    return GivenPrompt(text=text, token_ids=None if token_ids is None else _read_token_ids(token_ids), cache_salt=salt or "")


def _is_unicode(text: str) -> bool:
    """Returns whether a text can be written as UTF-8: a lone half of a surrogate pair cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _read_token_ids(prompt: object) -> tuple[int, ...]:
    items = _items(prompt)
    token_ids = tuple(int(item) for item in items if isinstance(item, (int, np.integer)) and not isinstance(item, bool))
    if len(token_ids) != len(items):
        raise _not_a_prompt(prompt)
    return token_ids


def _items(given: object) -> Sequence[object]:
    """Returns the entries of a list, a tuple or an array; bytes are none, although Python reads them as integers."""
    if isinstance(given, np.ndarray) and given.ndim:
        return list(given)
    if isinstance(given, (str, bytes, bytearray, memoryview)) or not isinstance(given, Sequence):
        raise _not_a_prompt(given)
    return given


def _require_as_many(what: str, num_given: int, num_prompts: int) -> None:
    if num_given != num_prompts:
        raise RequestError(
            f"there must be one {what} for all prompts or one for each",
            given=f"{num_given} for {num_prompts} prompts",
            next_step=f"Pass a single {what}, or as many as prompts.",
        )


def _not_a_prompt(given: object) -> RequestError:
    return RequestError(
        "a prompt is a text or a list of token ids",
        given=type(given).__name__,
        next_step='Pass a string, a list of integers, {"prompt": ...} or {"prompt_token_ids": ...}, or a list of those.',
    )


def _not_params(given: object) -> RequestError:
    return RequestError(
        "sampling_params is a SamplingParams or a list of them",
        given=type(given).__name__,
        next_step="Pass SamplingParams(temperature=..., max_tokens=...), or leave it out.",
    )
