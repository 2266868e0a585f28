"""From a name to a model in memory: find the directory, read the checkpoint, choose and build the executor."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path, PurePath

from quire.config import EngineConfig, ExecutorKind, KVCacheMode, PrefixCache
from quire.engine.calibration import importance_for
from quire.engine.core import EngineCore
from quire.engine.options import EngineOptions, LoadProgress, engine_config
from quire.engine.resolve import context_bound, executor_options, is_native_built, resolve, settled
from quire.environment import read_memory
from quire.errors import ConfigError, ExecutorUnavailableError
from quire.executors.options import ExecutorOptions
from quire.executors.packing import matrix_formats
from quire.executors.protocol import Executor
from quire.kv.manager import KVCacheManager
from quire.kv.pool import BlockPool
from quire.models.bundled import directory as bundled_directory
from quire.models.checkpoint import Checkpoint, load_checkpoint
from quire.models.hub import find_model
from quire.sched.scheduler import Scheduler
from quire.text.tokenizer import Tokenizer
from quire.text.tokenizer_fit import require_fit
from quire.values import shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a checkpoint says beyond its spec: which weights these are, and the longest context the model itself allows.

    `weights_fingerprint` is empty where nothing is kept under it.
    """

    weights_fingerprint: bytes
    model_context: int


def origin_of(checkpoint: Checkpoint, config: EngineConfig) -> Origin:
    """Returns the origin of an opened checkpoint; the fingerprint, for which files are read, only for a prefix cache."""
    fingerprint = checkpoint.weights.fingerprint if _has_prefix_cache(config) else b""
    return Origin(weights_fingerprint=fingerprint, model_context=checkpoint.model_context)


def _has_prefix_cache(config: EngineConfig) -> bool:
    return config.cache.mode is KVCacheMode.PAGED and config.cache.prefix_cache is PrefixCache.ON


def open_checkpoint(model: str | Path | None, config: EngineConfig) -> tuple[Checkpoint, EngineConfig]:
    """Opens a directory, GGUF file, hub id, or (None) the bundled model, and resolves the configuration for it and this machine.

    Reads no weights yet. Raises ConfigError, before anything is allocated, for what does not fit into memory.
    """
    directory = find_directory(model)
    checkpoint = load_checkpoint(directory, max_context=config.max_context)
    return checkpoint, resolve(config, checkpoint.spec, checkpoint.weights, read_memory())


def find_directory(model: object) -> Path:
    """Returns the directory, or GGUF file, of a model named by a path or a hub id, or (None) of the bundled one."""
    if model is None:
        return bundled_directory()
    if not isinstance(model, (str, PurePath)):
        raise ConfigError(
            "a model is named by a text or a path",
            given=shown(model),
            next_step="Pass a directory, a .gguf file, a Hugging Face id such as org/name, or None for the bundled model.",
        )
    return find_model(str(model))


def open_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """Returns the tokenizer of an opened checkpoint; raises TokenizerError if the model lacks any of its tokens."""
    gguf = checkpoint.gguf
    tokenizer = Tokenizer.from_directory(checkpoint.directory) if gguf is None else Tokenizer.from_gguf(gguf)
    require_fit(tokenizer, checkpoint.spec.vocab_size)
    return tokenizer


def load_executor(
    model: str | Path | None, config: EngineConfig, on_progress: LoadProgress | None = None
) -> tuple[Checkpoint, Executor, EngineConfig]:
    """Opens a model and builds its executor; returns both with the resolved configuration."""
    checkpoint, resolved = open_checkpoint(model, config)
    return checkpoint, build_executor(checkpoint, resolved, on_progress), resolved


class _Watched:
    """Calls `on_progress` and keeps what it raised, which must not be blamed on the executor."""

    def __init__(self, on_progress: LoadProgress) -> None:
        self._on_progress = on_progress
        self.error: Exception | None = None

    def __call__(self, done: int, total: int) -> None:
        try:
            self._on_progress(done, total)
        except Exception as error:
            self.error = error
            raise


def build_executor(checkpoint: Checkpoint, config: EngineConfig, on_progress: LoadProgress | None = None) -> Executor:
    """Builds the executor of a resolved configuration.

    Raises ExecutorUnavailableError if it is not installed, and ConfigError if `on_progress` fails.
    """
    watched = None if on_progress is None else _Watched(on_progress)
    try:
        if config.packed_cache is not None or _has_prefix_cache(config):
            checkpoint.weights.identify(watched)
        return _executor_of(checkpoint, config, watched)
    except Exception:
        if watched is None or watched.error is None:
            raise
        raise ConfigError(
            "on_progress failed while the weights were loading",
            given=f"{type(watched.error).__name__}: {watched.error}",
            next_step="Pass a function that takes two numbers, the tensors done and those in all, or leave it out.",
        ) from watched.error


def _executor_of(checkpoint: Checkpoint, config: EngineConfig, on_progress: LoadProgress | None) -> Executor:
    options = executor_options(config, checkpoint.spec)
    formats = matrix_formats(checkpoint.spec, checkpoint.weights, options.weight_format, options.int_layout)
    options = replace(options, importance=importance_for(checkpoint, config, formats, on_progress))
    if config.executor is ExecutorKind.NATIVE:
        return _native(checkpoint, options, on_progress)
    if config.executor is ExecutorKind.TORCH:
        return _torch(checkpoint, options)
    from quire.executors.reference import ReferenceExecutor

    return ReferenceExecutor(checkpoint.spec, checkpoint.weights, options)


def build_core(
    executor: Executor,
    tokenizer: Tokenizer | None,
    config: EngineConfig,
    origin: Origin,
    clock: Callable[[], float] = time.perf_counter,
) -> EngineCore:
    """Builds the core of a resolved configuration: pool and admission know exactly the executor's blocks."""
    has_prefix_cache = _has_prefix_cache(config)
    fingerprint = cache_fingerprint(executor, origin.weights_fingerprint)
    max_context = settled(config.max_context, "max_context")
    bound = context_bound(config, executor.spec, origin.model_context)

    def make_scheduler() -> Scheduler:
        manager = KVCacheManager(
            BlockPool(executor.num_blocks, executor.layout.block_size),
            fingerprint=fingerprint,
            prefix_cache=PrefixCache.ON if has_prefix_cache else PrefixCache.OFF,
            num_own_tiles=executor.num_own_tiles,
        )
        return Scheduler(config.scheduler, manager, max_context=max_context, mode=config.cache.mode, context_bound=bound)

    return EngineCore(executor, tokenizer, make_scheduler, clock)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedEngine:
    """A model ready to answer: its core, its tokenizer, and the configuration that both were built from."""

    core: EngineCore
    tokenizer: Tokenizer
    config: EngineConfig


def load_engine(model: str | Path | None, options: EngineOptions) -> LoadedEngine:
    """Loads a model for serving; raises what opening it, its tokenizer and its executor raises."""
    checkpoint, config = open_checkpoint(model, engine_config(options))
    tokenizer = open_tokenizer(checkpoint)
    executor = build_executor(checkpoint, config, options.get("on_progress"))
    return LoadedEngine(
        core=build_core(executor, tokenizer, config, origin_of(checkpoint, config)), tokenizer=tokenizer, config=config
    )


def cache_fingerprint(executor: Executor, weights_fingerprint: bytes) -> bytes:
    """Returns the digest that two engines share only if their cached keys and values are the same bits."""
    numerics = f"{executor.numerics} {executor.layout.name}".encode()
    return sha256(sha256(weights_fingerprint).digest() + numerics).digest()


def _native(checkpoint: Checkpoint, options: ExecutorOptions, on_progress: LoadProgress | None) -> Executor:
    if not is_native_built():
        raise ExecutorUnavailableError(
            "the native executor was not compiled in this installation",
            limit="executors here: reference",
            next_step="Install g++ and cmake and reinstall, or pass executor='reference'.",
        )
    from quire.executors.native import NativeExecutor

    return NativeExecutor(checkpoint.spec, checkpoint.weights, options, on_progress)


def _torch(checkpoint: Checkpoint, options: ExecutorOptions) -> Executor:
    try:
        from quire.executors.torch_executor import TorchExecutor
    except ImportError as error:
        raise ExecutorUnavailableError(
            "the torch executor needs torch, which cannot be imported here",
            given=error,
            next_step="Run pip install 'quire[torch]', or leave the executor out.",
        ) from error
    return TorchExecutor(checkpoint.spec, checkpoint.weights, options)
