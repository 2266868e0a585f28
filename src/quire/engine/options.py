"""Options as users write them, in words and sizes, turned into an `EngineConfig`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TypedDict, TypeVar, cast

from quire.config import (
    KERNEL_TILE_TOKENS,
    CacheConfig,
    Calibrate,
    DType,
    EngineConfig,
    ExecutorKind,
    KVCacheMode,
    KVFormat,
    PrefixCache,
    Quantize,
    SchedulerConfig,
    checked_count,
    checked_itl_target,
)
from quire.counterparts import LLM, advice_for
from quire.engine.words import word_advice
from quire.environment import cache_directory, read_environment
from quire.errors import ConfigError
from quire.units import MAX_BYTES, parse_bytes, parse_seconds
from quire.values import as_int, shown

LoadProgress = Callable[[int, int], None]
"""Called while weights load with (tensors packed, tensors in all)."""

AUTO = "auto"
_ON, _OFF = "on", "off"
WEIGHT_FORMATS = tuple(each.value for each in Quantize)

_Choice = TypeVar("_Choice", bound=Enum)


class ModelOptions(TypedDict, total=False):
    """Keyword options of `load_model`: memory and threads. Every one may be left out, and None is the same as leaving it out.

    kv_format auto|float32|bfloat16|int8|int8-int4|int4; kv_memory a size such as "2GiB" or a number of bytes, of which no more
    is taken than `max_num_seqs` full contexts need (None: 2 GiB, or what memory is left if that is less); packed_cache off|on
    or a directory where packed weights are kept; `on_progress(done, total)` is called while weights load: once per tensor,
    and before that, for large files that are seen for the first time, once per piece that is read to identify them.
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
    calibrate auto|none or a text file: where weights are quantized, over which text the inputs that matter are found.
    itl_target a time such as "150ms" or seconds: while others decode, steps compute as much of a prompt as keeps to it.
    """

    dtype: str
    quantize: str
    calibrate: str | Path
    kv_cache: str
    prefix_cache: str
    max_num_batched_tokens: int
    itl_target: str | float | None
    executor: str


_ENGINE_NAMES = frozenset((*ModelOptions.__annotations__, *EngineOptions.__annotations__))
_MODEL_NAMES = frozenset((*ModelOptions.__annotations__, "executor", "dtype"))
_COUNTS = ("block_size", "max_num_batched_tokens", "max_num_seqs", "max_context", "threads")


def engine_config(options: EngineOptions) -> EngineConfig:
    """Returns the configuration that `options` of `LLM` ask for; raises ConfigError that says what each may be."""
    return _config(options, _ENGINE_NAMES)


def model_config(options: EngineOptions) -> EngineConfig:
    """Returns the configuration of `load_model`, which has no scheduler and no prefix cache; otherwise as `engine_config`."""
    config = _config(options, _MODEL_NAMES)
    return replace(config, cache=replace(config.cache, prefix_cache=PrefixCache.OFF))


def _config(options: EngineOptions, names: frozenset[str]) -> EngineConfig:
    unknown = sorted(set(options) - names)
    if unknown:
        raise _unknown_option(unknown[0], options, names)
    given = cast(EngineOptions, {name: value for name, value in options.items() if value is not None})
    counts = {name: checked_count(name, given[name]) for name in _COUNTS if name in given}  # type: ignore[literal-required]
    steps = {name: count for name, count in counts.items() if name.startswith("max_num_")}
    _check_progress(given.get("on_progress"))
    return EngineConfig(
        cache=_cache_config(given),
        scheduler=SchedulerConfig(**steps, itl_target_s=_itl_target(given.get("itl_target"))),
        dtype=_choose_or_auto("dtype", given.get("dtype", AUTO), DType),
        quantize=_choose("quantize", given.get("quantize", Quantize.NONE.value), Quantize),
        calibrate=_calibrate(given.get("calibrate", AUTO)),
        executor=_choose_or_auto("executor", given.get("executor", AUTO), ExecutorKind),
        max_context=counts.get("max_context"),
        threads=counts.get("threads"),
        packed_cache=_packed_cache(given.get("packed_cache")),
    )


def _unknown_option(name: str, options: EngineOptions, names: frozenset[str]) -> ConfigError:
    if name in _ENGINE_NAMES:
        next_step = f"load_model has no scheduler and no prefix cache: its options are {', '.join(sorted(names))}."
    else:
        next_step = advice_for(name, names, LLM if names is _ENGINE_NAMES else "load_model")
    given = f"{name}={shown(cast(Mapping[str, object], options)[name])}"
    return ConfigError(f"unknown option {name!r}", given=given, next_step=next_step)


def _check_progress(on_progress: object) -> None:
    if on_progress is not None and not callable(on_progress):
        raise ConfigError(
            "on_progress cannot be called",
            given=shown(on_progress),
            next_step="Pass a function of two numbers, the tensors done and those in all, or leave it out.",
        )


def _cache_config(options: EngineOptions) -> CacheConfig:
    return CacheConfig(
        mode=_choose("kv_cache", options.get("kv_cache", "paged"), KVCacheMode),
        prefix_cache=_choose("prefix_cache", options.get("prefix_cache", "on"), PrefixCache),
        block_size=options.get("block_size", KERNEL_TILE_TOKENS),
        memory_bytes=_memory_bytes(options.get("kv_memory")),
        format=_choose_or_auto("kv_format", options.get("kv_format", AUTO), KVFormat),
    )


def _itl_target(value: object) -> float | None:
    """Returns seconds; a value that is not a time is passed on, and the configuration refuses it."""
    if value is None:
        return None
    try:
        return checked_itl_target("itl_target", parse_seconds(value) if isinstance(value, str) else value)
    except ValueError:
        return checked_itl_target("itl_target", value)


def _calibrate(word: str | Path) -> Calibrate | Path:
    """Returns the choice, or the path of a text file."""
    chosen = _chosen(word, Calibrate)
    if chosen is not None:
        return chosen
    if not isinstance(word, (str, Path)) or not _is_path(str(word)) or not Path(word).is_file():
        raise ConfigError("calibrate is no text file", given=shown(word), next_step="Use auto, none, or a text file.")
    return Path(word)


def _packed_cache(word: str | Path | None) -> Path | None:
    """Returns the directory, or None for off; left out, it is what QUIRE_PACKED_CACHE says."""
    environment = read_environment()
    chosen = (environment.packed_cache or _OFF) if word is None else word
    if not isinstance(chosen, (str, Path)) or not str(chosen).strip() or not _is_path(str(chosen)):
        raise ConfigError("packed_cache is not a directory", given=shown(chosen), next_step="Use off, on, or a directory.")
    if chosen == _OFF:
        return None
    if chosen == _ON:
        return _packed_directory()
    return Path(chosen)


def _packed_directory() -> Path:
    directory = cache_directory()
    if directory is None:
        raise ConfigError(
            "packed_cache is on, but there is no home directory to keep it in",
            next_step="Pass a directory, or set XDG_CACHE_HOME to one.",
        )
    return directory / "packed"


def _is_path(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _choose(name: str, value: object, choices: type[_Choice]) -> _Choice:
    found = _chosen(value, choices)
    if found is None:
        raise _unknown_word(name, value, [str(choice.value) for choice in choices])
    return found


def _choose_or_auto(name: str, value: object, choices: type[_Choice]) -> _Choice | None:
    if isinstance(value, str) and value == AUTO:
        return None
    found = _chosen(value, choices)
    if found is None:
        raise _unknown_word(name, value, [AUTO, *(str(choice.value) for choice in choices)])
    return found


def _chosen(value: object, choices: type[_Choice]) -> _Choice | None:
    return next((choice for choice in choices if isinstance(value, str) and value == choice.value), None)


def _memory_bytes(value: object) -> int | None:
    if value is None:
        return None
    num_bytes = as_int(value)
    if num_bytes is None:
        try:
            num_bytes = parse_bytes(value) if isinstance(value, str) else 0
        except ValueError as error:
            raise _not_a_size(value) from error
    if not 1 <= num_bytes <= MAX_BYTES:
        raise _not_a_size(value)
    return num_bytes


def _not_a_size(value: object) -> ConfigError:
    return ConfigError(
        "kv_memory is not a size that memory can have", given=shown(value), next_step="Write it like 512MiB or 2GiB."
    )


def _unknown_word(name: str, value: object, choices: list[str]) -> ConfigError:
    return ConfigError(
        f"{name} has no such choice",
        given=shown(value),
        next_step=word_advice(name, str(value) if isinstance(value, str) else shown(value), choices),
    )
