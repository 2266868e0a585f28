"""How to choose the next token: sampling parameters, checked when they are built."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from quire.errors import SamplingError

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

MAX_COMPLETIONS = 64
MAX_STOPS = 64
MAX_STOP_CHARS = 1024
MAX_LOGPROBS = 1024
MAX_NAMED_TOKENS = 4096  # in logit_bias or stop_token_ids
MAX_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Greedy:
    """The token with the largest logit; ties go to the smallest id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """A seeded draw from the filtered distribution. `top_k` None keeps all tokens."""

    temperature: float
    top_k: int | None
    top_p: float
    min_p: float


SamplingMethod = Greedy | Draw


class _FrozenDict(dict[_Key, _Value]):
    """A dictionary that cannot be changed and can therefore be hashed; unlike a proxy it can be copied, pickled and dumped."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[type[_FrozenDict[_Key, _Value]], tuple[dict[_Key, _Value]]]:
        return type(self), (dict(self),)

    def _refuse(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise TypeError("sampling parameters cannot be changed; build others with dataclasses.replace")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to continue a prompt. Field names and defaults are vLLM's; combinations that contradict each other raise.

    `temperature` 0 is greedy. `top_k` 0 keeps all. `max_tokens` None means until the context is full. `logprobs` k
    returns the sampled token's log-probability and the k best. `seed` None lets the engine choose one and report it.
    None in place of a list or of `logit_bias` means an empty one; one text in place of a list, a list of one.

    `stop` ends an output with the token that completes one of its strings, if more than `min_tokens` tokens are there then;
    where the string began does not matter. It is looked for in the text with special tokens, also where
    `skip_special_tokens` hides them, and cut off unless `include_stop_str_in_output`.

    `bad_words` are texts that the output never holds, also inside a longer word ("cat" forbids "concatenate"): a token
    that would complete one, however its bytes are spread over tokens, is not chosen. Spaces before a word do not count,
    a special token is its text, and a word that begins in the prompt is not looked for. Where a tokenizer's decoder
    writes a token by its neighbors (WordPiece), a token counts as it is written behind another word.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    bad_words: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        for name in ("stop", "bad_words", "stop_token_ids"):
            object.__setattr__(self, name, _as_tuple(name, getattr(self, name)))
        object.__setattr__(self, "logit_bias", _as_mapping("logit_bias", self.logit_bias))
        for name in ("ignore_eos", "include_stop_str_in_output", "skip_special_tokens"):
            _require_bool(name, getattr(self, name))
        self._check_counts()
        self._check_token_ids()
        self._check_numbers()
        self._check_texts()
        self._check_combinations()

    @property
    def method(self) -> SamplingMethod:
        """The two ways to choose a token, with only the numbers that way uses."""
        if self.temperature == 0:
            return Greedy()
        return Draw(temperature=self.temperature, top_k=self.top_k or None, top_p=self.top_p, min_p=self.min_p)

    def _check_counts(self) -> None:
        _require_int("n", self.n, 1, MAX_COMPLETIONS)
        _require_int("top_k", self.top_k, 0, MAX_SEED, "Pass top_k as a positive integer; 0 keeps all tokens.")
        _require_int("min_tokens", self.min_tokens, 0, MAX_SEED)
        for name, low, high in (
            ("seed", 0, MAX_SEED),
            ("max_tokens", 1, MAX_SEED),
            ("logprobs", 0, MAX_LOGPROBS),
            ("prompt_logprobs", 0, MAX_LOGPROBS),
        ):
            if getattr(self, name) is not None:
                _require_int(name, getattr(self, name), low, high)

    def _check_token_ids(self) -> None:
        for name in ("stop_token_ids", "logit_bias"):
            if len(getattr(self, name)) > MAX_NAMED_TOKENS:
                raise SamplingError(
                    f"{name} names too many tokens",
                    given=len(getattr(self, name)),
                    limit=MAX_NAMED_TOKENS,
                    next_step="Name fewer tokens.",
                )
        for token_id in (*self.stop_token_ids, *self.logit_bias):
            _require_int("a token id", token_id, 0, MAX_SEED)

    def _check_numbers(self) -> None:
        _require_number("temperature", self.temperature, 0.0, 100.0)
        _require_number("top_p", self.top_p, 0.0, 1.0)
        _require_number("min_p", self.min_p, 0.0, 1.0)
        _require_number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _require_number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _require_number("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        for bias in self.logit_bias.values():
            _require_number("a logit bias", bias, -100.0, 100.0)
        if self.top_p == 0:
            raise SamplingError("top_p must be above 0", given=0, next_step="Use temperature=0 for greedy decoding.")

    def _check_texts(self) -> None:
        for name, values in (("stop", self.stop), ("bad_words", self.bad_words)):
            if any(not isinstance(text, str) or not text for text in values):
                raise SamplingError(f"{name} must hold non-empty strings", next_step="Remove the empty or non-text entries.")
            if len(values) > MAX_STOPS or any(len(text) > MAX_STOP_CHARS for text in values):
                raise SamplingError(
                    f"{name} is too large",
                    limit=f"{MAX_STOPS} entries of {MAX_STOP_CHARS} characters",
                    next_step="Shorten the list.",
                )
            if not _is_unicode("".join(values)):
                raise SamplingError(
                    f"{name} is not valid Unicode", given="a lone surrogate", next_step="Pass text that can be written as UTF-8."
                )

    def _check_combinations(self) -> None:
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise SamplingError(
                "min_tokens exceeds max_tokens", given=self.min_tokens, limit=self.max_tokens, next_step="Lower min_tokens."
            )
        if isinstance(self.method, Greedy):
            unused = [name for name, off in (("top_k", 0), ("min_p", 0.0), ("top_p", 1.0)) if getattr(self, name) != off]
            if unused:
                raise SamplingError(
                    f"temperature=0 is greedy and ignores {', '.join(unused)}", next_step="Raise temperature or leave them out."
                )
            if self.n > 1:
                raise SamplingError(
                    "greedy completions are all the same", given=f"n={self.n}", next_step="Use n=1 or a temperature above 0."
                )


def _as_tuple(name: str, value: object) -> tuple[Any, ...]:
    """Returns the entries of a list; one text is a list of one, None an empty list."""
    if isinstance(value, str):
        return (value,)
    if value is not None and not isinstance(value, Collection):
        raise SamplingError(f"{name} must be a list", given=_shown(value), next_step=f"Pass {name} as a list.")
    return () if value is None else tuple(value)


def _as_mapping(name: str, value: object) -> Mapping[Any, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise SamplingError(
            f"{name} must map token ids to numbers", given=_shown(value), next_step=f"Pass {name} as a dictionary."
        )
    return _FrozenDict({} if value is None else value)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _require_bool(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise SamplingError(f"{name} must be True or False", given=_shown(value), next_step=f"Pass {name}=True or leave it out.")


def _require_int(name: str, value: object, low: int, high: int, next_step: str | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise SamplingError(
            f"{name} must be an integer from {low} to {high}",
            given=_shown(value),
            next_step=next_step or f"Pass {name} within that range.",
        )


def _require_number(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise SamplingError(
            f"{name} must be a finite number from {low:g} to {high:g}",
            given=_shown(value),
            next_step=f"Pass {name} within that range.",
        )


def _shown(value: object) -> str:
    try:
        return repr(value)[:40]
    except ValueError:  # Python does not write down integers of thousands of digits
        return f"{type(value).__name__} of thousands of digits"
