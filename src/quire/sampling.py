"""How to choose the next token: sampling parameters, checked when they are built."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from functools import wraps
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

from quire.counterparts import SAMPLING, advice_for
from quire.errors import SamplingError, UnknownParameterError
from quire.values import as_bool, as_int, as_number, is_unicode, shown

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
_Class = TypeVar("_Class")

MAX_COMPLETIONS = 64
MAX_STOPS = 64
MAX_STOP_CHARS = 1024
MAX_LOGPROBS = 1024
MAX_NAMED_TOKENS = 4096  # in logit_bias or stop_token_ids
MAX_ALLOWED_TOKENS = 2**18
MAX_SEED = 2**63 - 1

COUNT_LIMITS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "n": (1, MAX_COMPLETIONS),
        "top_k": (-1, MAX_SEED),
        "seed": (0, MAX_SEED),
        "max_tokens": (1, MAX_SEED),
        "min_tokens": (0, MAX_SEED),
        "logprobs": (0, MAX_LOGPROBS),
        "prompt_logprobs": (0, MAX_LOGPROBS),
    }
)
"""The smallest and the largest value of every integer parameter, here and on the command line."""

NUMBER_LIMITS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "temperature": (0.0, 100.0),
        "top_p": (0.0, 1.0),
        "min_p": (0.0, 1.0),
        "presence_penalty": (-2.0, 2.0),
        "frequency_penalty": (-2.0, 2.0),
        "repetition_penalty": (0.01, 100.0),
    }
)
"""The same for every other number; `top_p` must be above its smallest."""

_OPTIONAL = frozenset({"seed", "max_tokens", "logprobs", "prompt_logprobs"})
_SWITCHES = ("ignore_eos", "include_stop_str_in_output", "skip_special_tokens")
_MAX_BIAS = 100.0
_ADVICE: Mapping[str, str] = MappingProxyType(
    {
        "top_k": "Pass top_k as a positive integer; 0 keeps all tokens, and so does -1.",
        "max_tokens": "Pass max_tokens within that range; None goes on until the context is full.",
    }
)


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


def _naming_unknown_parameters(params_class: type[_Class]) -> type[_Class]:
    """Makes a class of parameters answer an unknown name with ours, or with the reason why there is none."""
    build: Callable[..., None] = params_class.__init__
    own_names = [each.name for each in fields(params_class)]  # type: ignore[arg-type]

    @wraps(build)
    def checked(self: object, *unnamed: object, **params: object) -> None:
        if unnamed:
            raise UnknownParameterError(
                "a sampling parameter is passed by its name",
                given=shown(unnamed[0]),
                next_step="Write SamplingParams(temperature=0.7, max_tokens=100).",
            )
        unknown = next((name for name in params if name not in own_names), None)
        if unknown is not None:
            raise UnknownParameterError(
                f"there is no sampling parameter {unknown!r}",
                given=f"{unknown}={shown(params[unknown])}",
                next_step=advice_for(unknown, own_names, SAMPLING),
            )
        build(self, **params)

    params_class.__init__ = checked  # type: ignore[method-assign]
    return params_class


@_naming_unknown_parameters
@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to continue a prompt. Field names and defaults are vLLM's; combinations that contradict each other raise.

    `temperature` 0 is greedy. `top_k` 0 or -1 keeps all and reads as 0. `max_tokens` None means until the context is full.
    `logprobs` k returns the sampled token's log-probability and the k best. `seed` None lets the engine choose one and report it.
    None in place of a list or of `logit_bias` means an empty one; one text in place of a list, a list of one. NumPy's integers,
    floats and bools count as Python's.

    `stop` ends an output with the token that completes one of its strings, if more than `min_tokens` tokens are there then;
    where the string began does not matter. It is looked for in the text with special tokens, also where
    `skip_special_tokens` hides them, and cut off unless `include_stop_str_in_output`.

    `bad_words` are texts that the output never holds, also inside a longer word ("cat" forbids "concatenate"): a token
    that would complete one, however its bytes are spread over tokens, is not chosen. Spaces before a word do not count,
    a special token is its text, and a word that begins in the prompt is not looked for. Where a tokenizer's decoder
    writes a token by its neighbors (WordPiece), a token counts as it is written behind another word.

    `allowed_token_ids` are the only tokens that may be chosen; None allows all. An output goes on until its longest length
    where none of them ends it.
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
    allowed_token_ids: tuple[int, ...] | None = None
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        for name, default in _DEFAULTS.items():
            if (value := getattr(self, name)) is not default:  # most are left as they are
                object.__setattr__(self, name, _CHECKS[name](name, value))
        self._check_combinations()

    @property
    def method(self) -> SamplingMethod:
        """The two ways to choose a token, with only the numbers that way uses."""
        if self.temperature == 0:
            return Greedy()
        return Draw(temperature=self.temperature, top_k=self.top_k or None, top_p=self.top_p, min_p=self.min_p)

    def _check_combinations(self) -> None:
        if self.allowed_token_ids is not None and self.bad_words:
            raise SamplingError(
                "allowed_token_ids and bad_words may leave no token to choose",
                next_step="Leave bad_words out, and the tokens that would write them too.",
            )
        if self.top_p == 0:
            raise SamplingError("top_p must be above 0", given=0, next_step="Use temperature=0 for greedy decoding.")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise SamplingError(
                "min_tokens exceeds max_tokens", given=self.min_tokens, limit=self.max_tokens, next_step="Lower min_tokens."
            )
        if isinstance(self.method, Greedy):
            unused = [name for name, off in (("top_k", 0), ("min_p", 0.0), ("top_p", 1.0)) if getattr(self, name) != off]
            if unused:
                raise SamplingError(
                    f"temperature=0 is greedy and ignores {', '.join(unused)}",
                    given=", ".join(f"{name}={getattr(self, name)}" for name in ("temperature", *unused)),
                    next_step="Raise temperature, or leave them out.",
                )
            if self.n > 1:
                raise SamplingError(
                    "greedy completions are all the same", given=f"n={self.n}", next_step="Use n=1 or a temperature above 0."
                )


def _count(name: str, value: object) -> int | None:
    number = None if value is None and name in _OPTIONAL else _int_within(name, value, *COUNT_LIMITS[name])
    return max(number or 0, 0) if name == "top_k" else number


def _number(name: str, value: object) -> int | float:
    return _number_within(name, value, *NUMBER_LIMITS[name])


def _texts(name: str, value: object) -> tuple[str, ...]:
    """Returns the entries of a list of texts; one text is a list of one, None an empty list."""
    texts = (value,) if isinstance(value, str) else _entries(name, value, "texts")
    for text in texts:
        if not isinstance(text, str) or not text:
            raise SamplingError(
                f"{name} must hold non-empty strings",
                given=shown(text),
                next_step=f"Pass {name} as a text or a list of texts, without this entry.",
            )
        if not is_unicode(text):
            raise SamplingError(
                f"{name} is not valid Unicode: it holds a lone surrogate",
                given=shown(text),
                next_step="Pass text that can be written as UTF-8.",
            )
        if len(text) > MAX_STOP_CHARS:
            raise SamplingError(
                f"{name} holds a text that is too long",
                given=f"{len(text)} characters",
                limit=MAX_STOP_CHARS,
                next_step="Shorten the text.",
            )
    if len(texts) > MAX_STOPS:
        raise SamplingError(
            f"{name} holds too many texts", given=len(texts), limit=MAX_STOPS, next_step="Leave out the less important ones."
        )
    return tuple(str(text) for text in texts)


def _token_ids(name: str, value: object) -> tuple[int, ...]:
    token_ids = _entries(name, value, "token ids")
    _require_few(name, len(token_ids))
    return tuple(_int_within("a token id", token_id, 0, MAX_SEED) for token_id in token_ids)


def _allowed_ids(name: str, value: object) -> tuple[int, ...]:
    """Returns the distinct ids, ascending."""
    token_ids = _entries(name, value, "token ids")
    if not 1 <= len(token_ids) <= MAX_ALLOWED_TOKENS:
        raise SamplingError(
            f"{name} must name at least one token, and not too many",
            given=len(token_ids),
            limit=f"1 to {MAX_ALLOWED_TOKENS}",
            next_step="Name the tokens that may be chosen, or pass None to allow all.",
        )
    return tuple(sorted({_int_within("a token id", token_id, 0, MAX_SEED) for token_id in token_ids}))


def _biases(name: str, value: object) -> Mapping[int, float]:
    if value is not None and not isinstance(value, Mapping):
        raise SamplingError(
            f"{name} must map token ids to numbers", given=shown(value), next_step=f"Pass {name} as a dictionary."
        )
    given: Mapping[object, object] = {} if value is None else value
    _require_few(name, len(given))
    return _FrozenDict(
        {
            _int_within("a token id", token_id, 0, MAX_SEED): _number_within("a logit bias", bias, -_MAX_BIAS, _MAX_BIAS)
            for token_id, bias in given.items()
        }
    )


def _entries(name: str, value: object, what: str) -> tuple[Any, ...]:
    """Returns the entries of a list, a tuple, a set or an array; None is an empty list, a number or a text none at all."""
    try:
        if value is None:
            return ()
        if isinstance(value, Collection) and not isinstance(value, (str, bytes, bytearray, memoryview, Mapping)):
            return tuple(value)
    except TypeError:
        pass  # an array of no dimension says that it can be iterated, and cannot
    raise SamplingError(f"{name} must be a list of {what}", given=shown(value), next_step=f"Pass {name} as a list.")


def _require_few(name: str, num_tokens: int) -> None:
    if num_tokens > MAX_NAMED_TOKENS:
        raise SamplingError(
            f"{name} names too many tokens", given=num_tokens, limit=MAX_NAMED_TOKENS, next_step="Name fewer tokens."
        )


def _switch(name: str, value: object) -> bool:
    switch = as_bool(value)
    if switch is None:
        raise SamplingError(f"{name} must be True or False", given=shown(value), next_step=f"Pass {name}=True or leave it out.")
    return switch


def _int_within(name: str, value: object, low: int, high: int) -> int:
    number = as_int(value)
    if number is None or not low <= number <= high:
        raise SamplingError(
            f"{name} must be an integer from {low} to {high}",
            given=shown(value),
            next_step=_ADVICE.get(name, f"Pass {name} within that range."),
        )
    return number


def _number_within(name: str, value: object, low: float, high: float) -> int | float:
    number = as_number(value)
    if number is None or not low <= number <= high:
        raise SamplingError(
            f"{name} must be a finite number from {low:g} to {high:g}",
            given=shown(value),
            next_step=f"Pass {name} within that range.",
        )
    return number


_DEFAULTS: Mapping[str, object] = MappingProxyType({each.name: each.default for each in fields(SamplingParams)})
_CHECKS: Mapping[str, Callable[[str, object], object]] = MappingProxyType(
    {
        **dict.fromkeys(COUNT_LIMITS, _count),
        **dict.fromkeys(NUMBER_LIMITS, _number),
        **dict.fromkeys(_SWITCHES, _switch),
        **dict.fromkeys(("stop", "bad_words"), _texts),
        "stop_token_ids": _token_ids,
        "logit_bias": _biases,
        "allowed_token_ids": _allowed_ids,
    }
)
"""What makes a parameter of a value that is not its default."""
