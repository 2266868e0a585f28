"""Options as users write them, in words and sizes, turned into an `EngineConfig`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import TypedDict, TypeVar

from quire.config import (
    KERNEL_TILE_TOKENS,
    CacheConfig,
    DType,
    EngineConfig,
    ExecutorKind,
    KVCacheMode,
    KVFormat,
    PackedCache,
    PrefixCache,
    Quantize,
    SchedulerConfig,
)
from quire.environment import read_environment
from quire.errors import ConfigError
from quire.units import MAX_BYTES, parse_bytes

LoadProgress = Callable[[int, int], None]
"""Called while weights load with (tensors packed, tensors in all)."""

AUTO = "auto"
_ON = "on"
WEIGHT_FORMATS = tuple(each.value for each in Quantize)

_Choice = TypeVar("_Choice", bound=Enum)


class ModelOptions(TypedDict, total=False):
    """Keyword options of `load_model`: memory and threads. Every one may be left out.

    kv_format auto|float32|bfloat16; kv_memory a size such as "2GiB" or a number of bytes, of which no more is taken than
    `max_num_seqs` full contexts need (None: 2 GiB, or what memory is left if that is less); packed_cache off|on or a
    directory where packed weights are kept; `on_progress(done, total)` is called while weights load.
    """

    kv_format: str
    kv_memory: str | int | None
    block_size: int
    max_num_seqs: int
    max_context: int | None
    threads: int | None
    packed_cache: str | Path
    on_progress: LoadProgress | None


class EngineOptions(ModelOptions, total=False):
    """Keyword options of `LLM`, with the words of the command line.

    dtype auto|float32|bfloat16, quantize none|int8|int4, kv_cache paged|off, prefix_cache on|off, executor auto|native|reference.
    """

    dtype: str
    quantize: str
    kv_cache: str
    prefix_cache: str
    max_num_batched_tokens: int
    executor: str


_ENGINE_NAMES = frozenset((*ModelOptions.__annotations__, *EngineOptions.__annotations__))
_MODEL_NAMES = frozenset((*ModelOptions.__annotations__, "executor", "dtype"))
_MIN_COUNTS: Mapping[str, int] = MappingProxyType(
    {"block_size": 1, "max_num_batched_tokens": 1, "max_num_seqs": 1, "max_context": 2, "threads": 1}
)


def engine_config(options: EngineOptions) -> EngineConfig:
    """Returns the configuration that `options` of `LLM` ask for; raises ConfigError that says what each may be."""
    return _config(options, _ENGINE_NAMES)


def model_config(options: EngineOptions) -> EngineConfig:
    """Returns the configuration of `load_model`, which has no scheduler and no prefix cache; otherwise as `engine_config`."""
    return _config(options, _MODEL_NAMES)


def _config(options: EngineOptions, names: frozenset[str]) -> EngineConfig:
    unknown = sorted(set(options) - names)
    if unknown:
        raise ConfigError(f"unknown option {unknown[0]!r}", next_step=f"Options are {', '.join(sorted(names))}.")
    for name, low in _MIN_COUNTS.items():
        _check_count(name, options.get(name), low)
    steps = SchedulerConfig()
    return EngineConfig(
        cache=_cache_config(options),
        scheduler=SchedulerConfig(
            max_num_batched_tokens=options.get("max_num_batched_tokens", steps.max_num_batched_tokens),
            max_num_seqs=options.get("max_num_seqs", steps.max_num_seqs),
        ),
        dtype=_choose_or_auto("dtype", options.get("dtype", AUTO), DType),
        quantize=_choose("quantize", options.get("quantize", "none"), Quantize),
        executor=_choose_or_auto("executor", options.get("executor", AUTO), ExecutorKind),
        max_context=options.get("max_context"),
        threads=options.get("threads"),
        packed_cache=_packed_cache(options.get("packed_cache")),
    )


def _cache_config(options: EngineOptions) -> CacheConfig:
    return CacheConfig(
        mode=_choose("kv_cache", options.get("kv_cache", "paged"), KVCacheMode),
        prefix_cache=_choose("prefix_cache", options.get("prefix_cache", "on"), PrefixCache),
        block_size=options.get("block_size", KERNEL_TILE_TOKENS),
        memory_bytes=_memory_bytes(options.get("kv_memory")),
        format=_choose_or_auto("kv_format", options.get("kv_format", AUTO), KVFormat),
    )


def _packed_cache(word: str | Path | None) -> Path | PackedCache:
    """Returns the directory; left out, it is what QUIRE_PACKED_CACHE says."""
    environment = read_environment()
    chosen = (environment.packed_cache or PackedCache.OFF.value) if word is None else word
    if chosen == PackedCache.OFF.value:
        return PackedCache.OFF
    if chosen == _ON:
        return (environment.cache_home or Path.home() / ".cache") / "quire" / "packed"
    if not isinstance(chosen, (str, Path)) or not str(chosen).strip() or "\0" in str(chosen):
        raise ConfigError("packed_cache is no directory", given=repr(chosen)[:40], next_step="Use off, on, or a directory.")
    return Path(chosen)


def _choose(name: str, value: str, choices: type[_Choice]) -> _Choice:
    for choice in choices:
        if value == choice.value:
            return choice
    raise _unknown_word(name, value, [str(choice.value) for choice in choices])


def _choose_or_auto(name: str, value: str, choices: type[_Choice]) -> _Choice | None:
    if value == AUTO:
        return None
    for choice in choices:
        if value == choice.value:
            return choice
    raise _unknown_word(name, value, [AUTO, *(str(choice.value) for choice in choices)])


def _check_count(name: str, value: object, low: int) -> None:
    """Raises ConfigError for what is no count; None stands for an option that was left out."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < low):
        raise ConfigError(
            f"{name} must be an integer of {low} or more",
            given=repr(value)[:40],
            next_step=f"Pass {name}={low} or more, or leave it out.",
        )


def _memory_bytes(value: str | int | None) -> int | None:
    if value is None:
        return None
    try:
        num_bytes = value if isinstance(value, int) and not isinstance(value, bool) else parse_bytes(value)  # type: ignore[arg-type]
    except (ValueError, AttributeError, TypeError) as error:
        raise _not_a_size(value) from error
    if num_bytes < 1:
        raise _not_a_size(value)
    if num_bytes > MAX_BYTES:
        raise _not_a_size(f"an integer of {num_bytes.bit_length()} bits")
    return num_bytes


def _not_a_size(value: object) -> ConfigError:
    return ConfigError("kv_memory is not a size above 0", given=repr(value)[:40], next_step="Write it like 512MiB or 2GiB.")


def _unknown_word(name: str, value: object, choices: list[str]) -> ConfigError:
    return ConfigError(f"{name} has no such choice", given=repr(value)[:40], next_step=f"Use one of: {', '.join(choices)}.")
