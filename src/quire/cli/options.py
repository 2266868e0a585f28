"""Options that several commands share, as two decorators: `engine_options` and `sampling_options`.

Each gathers its options into one value, so a command takes `engine: EngineChoice` or `sampling: SamplingOptions`.
Choices come from the enums of `quire.config`, so the command line offers what the engine supports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from quire.config import (
    COUNT_LIMITS,
    DEFAULT_KV_MEMORY_BYTES,
    MAX_COUNT,
    CacheConfig,
    DType,
    ExecutorKind,
    KVCacheMode,
    KVFormat,
    SchedulerConfig,
)
from quire.engine.options import AUTO, WEIGHT_FORMATS, EngineOptions
from quire.engine.words import word_advice
from quire.sampling import COUNT_LIMITS as SAMPLING_COUNTS
from quire.sampling import NUMBER_LIMITS
from quire.units import format_bytes, parse_bytes, parse_seconds

_R = TypeVar("_R")
OptionDecorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_CACHE = CacheConfig()
_SCHEDULER = SchedulerConfig()


def _parse_size(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else parse_bytes(value)
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from error


if TYPE_CHECKING:
    _Choice = click.Choice[str]
    _Time = click.ParamType[float]
else:
    _Choice = click.Choice
    _Time = click.ParamType


class Words(_Choice):
    """A choice that understands the words of other engines."""

    def __init__(self, name: str, choices: Iterable[str]) -> None:
        super().__init__(list(choices))
        self._name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Returns a word that is a choice; fails with advice on the corresponding choice if there is one."""
        if value not in self.choices:
            self.fail(f"{value!r} is not known here. {word_advice(self._name, str(value), self.choices)}", param, ctx)
        return str(value)


class Seconds(_Time):
    """A time within limits, written like 150ms or 0.15s."""

    name = "time"

    def __init__(self, low_s: float, high_s: float) -> None:
        self._low_s, self._high_s = low_s, high_s

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Returns seconds."""
        try:
            seconds = parse_seconds(str(value))
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)
        if not self._low_s <= seconds <= self._high_s:
            self.fail(f"{value!r} is not from {self._low_s:g}s to {self._high_s:g}s.", param, ctx)
        return seconds


def words(name: str, choices: type[Enum], *extra: str) -> Words:
    """Returns the type of an option that takes the values of an enum, and `extra` words."""
    return Words(name, [*extra, *(str(choice.value) for choice in choices)])


def count_of(name: str, limits: Mapping[str, tuple[int, int]] = COUNT_LIMITS) -> click.IntRange:
    """Returns the type of an option that takes a count within its limits; a limit that only the machine sets is not shown."""
    low, high = limits[name]
    return click.IntRange(low, None if high == MAX_COUNT else high)


def _number_of(name: str, *, is_open: bool = False) -> click.FloatRange:
    return click.FloatRange(*NUMBER_LIMITS[name], min_open=is_open)


def sampling_count(name: str) -> click.IntRange:
    """Returns the type of an option that takes a count of SamplingParams."""
    return count_of(name, SAMPLING_COUNTS)


def _option(name: str, kind: click.ParamType[Any], text: str) -> OptionDecorator:
    return click.option(f"--{name.replace('_', '-')}", type=kind, help=text)


def _count(name: str, text: str) -> OptionDecorator:
    return _option(name, count_of(name), text)


_ENGINE_OPTIONS: tuple[OptionDecorator, ...] = (
    click.option(
        "-m",
        "--model",
        metavar="MODEL",
        help="A model directory, a .gguf file or a Hugging Face id. [default: the bundled model]",
    ),
    _option(
        "dtype",
        words("dtype", DType, AUTO),
        "Number format of the weights in memory. [default: auto, as the checkpoint holds them]",
    ),
    _option("quantize", Words("quantize", WEIGHT_FORMATS), "Quantize the weights on loading. [default: none]"),
    click.option(
        "--calibrate",
        metavar="FILE|auto|none",
        help="The text over which --quantize learns which inputs matter. [default: auto, a bundled one]",
    ),
    _option(
        "kv_format",
        words("kv_format", KVFormat, AUTO),
        "Number format of cached keys and values; int8-int4 is 8 bits for keys and 4 for values. "
        "[default: auto, the weights' format]",
    ),
    _option(
        "kv_cache",
        words("kv_cache", KVCacheMode),
        f"`off` recomputes every token in every step, for comparison. [default: {_CACHE.mode.value}]",
    ),
    click.option(
        "--kv-memory",
        metavar="SIZE",
        callback=_parse_size,
        help=f"KV cache memory, such as 512MiB. [default: {format_bytes(DEFAULT_KV_MEMORY_BYTES)}, or what is left if less]",
    ),
    _count("block_size", f"Tokens per KV block. [default: {_CACHE.block_size}]"),
    _count("max_num_batched_tokens", f"Most tokens computed per step. [default: {_SCHEDULER.max_num_batched_tokens}]"),
    _count("max_num_seqs", f"Most requests computed per step. [default: {_SCHEDULER.max_num_seqs}]"),
    _count(
        "max_context",
        "Most tokens of prompt and answer together. [default: the model's, or what --kv-memory holds if that is less]",
    ),
    _count("threads", "Worker threads. [default: the cores this process may use]"),
    click.option(
        "--packed-cache",
        metavar="DIRECTORY|on|off",
        help="Keep packed weights on disk, so that the next start is faster; `on` means ~/.cache/quire/packed. [default: off]",
    ),
    _option(
        "executor",
        words("executor", ExecutorKind, AUTO),
        "The implementation that computes. [default: auto, native if it is compiled]",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineChoice:
    """The model (None: the bundled one) and the engine options that were given."""

    model: str | None
    options: EngineOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """The sampling options that were given; None leaves a value to the model."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    n: int | None = None
    logprobs: int | None = None


_MODEL_OR = "[default: the model's generation_config.json, else {}]"
_SAMPLING_OPTIONS: tuple[OptionDecorator, ...] = (
    _option("max_tokens", sampling_count("max_tokens"), "Most tokens per answer. [default: until the context is full]"),
    _option("temperature", _number_of("temperature"), f"0 takes the most likely token. {_MODEL_OR.format('0')}"),
    _option(
        "top_p",
        _number_of("top_p", is_open=True),
        f"Sample from the most likely tokens that make up this share of the probability. {_MODEL_OR.format('1')}",
    ),
    _option(
        "top_k",
        sampling_count("top_k"),
        f"Sample from this many of the most likely tokens; 0 and -1 mean all. {_MODEL_OR.format('0')}",
    ),
    _option(
        "min_p",
        _number_of("min_p"),
        f"Leave out tokens less likely than this share of the most likely one. {_MODEL_OR.format('0')}",
    ),
    _option(
        "repetition_penalty",
        _number_of("repetition_penalty"),
        f"Above 1, tokens that have already appeared become less likely. {_MODEL_OR.format('1')}",
    ),
    _option(
        "seed", click.IntRange(*SAMPLING_COUNTS["seed"]), "Sample the same tokens again. [default: random, printed by --json]"
    ),
    click.option("--stop", multiple=True, metavar="TEXT", help="End the answer before this text; may be given several times."),
)
_SEVERAL_OPTIONS: tuple[OptionDecorator, ...] = (
    click.option("-n", type=sampling_count("n"), help="Sample this many answers; needs a temperature above 0. [default: 1]"),
    _option(
        "logprobs",
        sampling_count("logprobs"),
        "Show each token's log-probability below the answer, and this many of the most likely tokens at its position.",
    ),
)


def engine_options(command: Callable[..., _R]) -> Callable[..., _R]:
    """Adds MODEL and the options of the engine; `command` receives them as `engine`."""

    def gather(values: dict[str, Any]) -> EngineChoice:
        model = values.pop("model")
        given = {name: value for name, value in values.items() if value is not None}
        return EngineChoice(model=model, options=cast(EngineOptions, given))

    return gathered(command, _ENGINE_OPTIONS, "engine", gather)


def sampling_options(command: Callable[..., _R]) -> Callable[..., _R]:
    """Adds the options that choose tokens; `command` receives them as `sampling`."""
    return gathered(command, _SAMPLING_OPTIONS, "sampling", lambda values: SamplingOptions(**values))


def answer_options(command: Callable[..., _R]) -> Callable[..., _R]:
    """Adds the same options, and those for several answers and their log-probabilities."""
    return gathered(command, _SAMPLING_OPTIONS + _SEVERAL_OPTIONS, "sampling", lambda values: SamplingOptions(**values))


def gathered(
    command: Callable[..., _R], options: tuple[OptionDecorator, ...], keyword: str, gather: Callable[[dict[str, Any]], object]
) -> Callable[..., _R]:
    """Adds `options` to a command, which receives `gather` of their values as the one keyword `keyword`."""

    names: list[str] = []

    @wraps(command)
    def gathering(**values: Any) -> _R:
        taken = {name: values.pop(name) for name in names}
        return command(**values, **{keyword: gather(taken)})

    result: Any = gathering
    for option in reversed(options):
        result = option(result)
    names.extend(parameter.name for parameter in result.__click_params__[-len(options) :])
    return cast(Callable[..., _R], result)
