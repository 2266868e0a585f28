"""The forms in which prompts and what comes with them are accepted: distinguished and checked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quire.errors import RequestError
from quire.request import MAX_LOGPROBS, SamplingParams
from quire.text.tokenizer import Tokenizer
from quire.values import as_bool, as_int, is_unicode, shown

Prompt = str | Sequence[int] | npt.NDArray[np.integer] | Mapping[str, object]
Prompts = Prompt | Sequence[Prompt]
ScoreContext = str | Sequence[int] | npt.NDArray[np.integer]

_KEYS = ("prompt", "prompt_token_ids", "cache_salt")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedPrompt:
    """One prompt, read and tokenized. `text` is None where it came as token ids.

    Of the first `num_context_tokens` no log-probabilities are wanted, so that they may come from the cache although the
    prompt is scored.
    """

    token_ids: tuple[int, ...]
    text: str | None = None
    cache_salt: str = ""
    num_context_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A prompt and how to continue it. With `reports_prompt` every step tells how far it brought the prompt."""

    request_id: str
    prompt: ParsedPrompt
    sampling: SamplingParams
    priority: int = 0
    tenant: str = ""
    reports_prompt: bool = False


def split_prompts(prompts: object, tokenizer: Tokenizer) -> list[ParsedPrompt]:
    """Returns the prompts one by one: a text, a list of token ids or a dictionary is one prompt, a list of those is many."""
    if isinstance(prompts, (str, Mapping)):
        return [read_prompt(prompts, tokenizer)]
    items = _items(prompts)
    if items is None:
        raise _not_a_prompt(prompts)
    if len(items) and as_int(items[0]) is not None:
        return [read_prompt(prompts, tokenizer)]
    return [read_prompt(item, tokenizer) for item in items]


def read_prompt(prompt: object, tokenizer: Tokenizer) -> ParsedPrompt:
    """Returns one prompt; raises RequestError for what is neither text, nor integers, nor a dictionary of those."""
    if isinstance(prompt, str):
        return ParsedPrompt(text=prompt, token_ids=tuple(tokenizer.encode(prompt)))
    if isinstance(prompt, Mapping):
        return _read_dictionary(prompt, tokenizer)
    return ParsedPrompt(token_ids=read_token_ids(prompt))


def one_param_each(num_prompts: int, sampling_params: object) -> list[SamplingParams]:
    """Returns the sampling parameters of every prompt; raises RequestError where the numbers differ."""
    if sampling_params is None or isinstance(sampling_params, SamplingParams):
        return [read_params(sampling_params)] * num_prompts
    if isinstance(sampling_params, (str, bytes, bytearray, memoryview)) or not isinstance(sampling_params, Sequence):
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
    items = _items(priority)
    if items is None:
        return [read_priority(priority)] * num_prompts
    _require_as_many("priority", len(items), num_prompts)
    return [read_priority(each) for each in items]


def read_priority(priority: object) -> int:
    """Returns the priority of one prompt; raises RequestError unless it is an integer."""
    number = as_int(priority)
    if number is None:
        raise RequestError(
            "a priority is an integer", given=shown(priority), next_step="Pass priority=0, or less to be served earlier."
        )
    return number


def read_switch(name: str, value: object) -> bool:
    """Returns True or False; raises RequestError for anything else."""
    switch = as_bool(value)
    if switch is None:
        raise RequestError(f"{name} is True or False", given=shown(value), next_step=f"Pass {name}=True, or leave it out.")
    return switch


def read_num_candidates(num_candidates: object) -> int:
    """Returns how many of the most likely tokens a score adds; raises RequestError for any other value."""
    number = as_int(num_candidates)
    if number is None or not 0 <= number <= MAX_LOGPROBS:
        raise RequestError(
            "num_candidates must be an integer",
            given=shown(num_candidates),
            limit=f"0 to {MAX_LOGPROBS}",
            next_step="Pass num_candidates within its limit, or leave it out.",
        )
    return number


def read_token_ids(prompt: object) -> tuple[int, ...]:
    """Returns the token ids of a list, a tuple or an array; raises RequestError that names the first entry that is none."""
    items = _items(prompt)
    if items is None:
        raise _not_a_prompt(prompt)
    token_ids = tuple(as_int(item) for item in items)
    if None in token_ids:
        position = token_ids.index(None)
        raise RequestError(
            "a prompt is a text or a list of token ids, which are integers",
            given=f"{shown(items[position])} at position {position}",
            next_step="Pass integers only; several prompts are a list of texts or of lists.",
        )
    return token_ids  # type: ignore[return-value]


def _read_dictionary(prompt: Mapping[object, object], tokenizer: Tokenizer) -> ParsedPrompt:
    unknown = [key for key in prompt if key not in _KEYS]
    if unknown:
        raise RequestError(
            "a prompt's dictionary has a key that is not understood",
            given=shown(unknown[0]),
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
        raise _not_a_prompt(prompt)
    if salt is not None and (not isinstance(salt, str) or not is_unicode(salt)):
        raise RequestError(
            "cache_salt is a text that can be written as UTF-8",
            given=shown(salt),
            next_step="Pass such a string or leave it out.",
        )
    ids = read_token_ids(token_ids) if text is None else tuple(tokenizer.encode(text))
    return ParsedPrompt(text=text, token_ids=ids, cache_salt=salt or "")


def _items(given: object) -> Sequence[object] | None:
    """Returns the entries of a list, a tuple or an array; bytes are none, although Python reads them as integers."""
    if isinstance(given, np.ndarray) and given.ndim:
        return list(given)
    if isinstance(given, (str, bytes, bytearray, memoryview)) or not isinstance(given, Sequence):
        return None
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
        given=shown(given),
        next_step='Pass a string, a list of integers, {"prompt": ...} or {"prompt_token_ids": ...}, or a list of those.',
    )


def _not_params(given: object) -> RequestError:
    return RequestError(
        "sampling_params is a SamplingParams or a list of them",
        given=shown(given),
        next_step="Pass SamplingParams(temperature=..., max_tokens=...), or leave it out.",
    )
