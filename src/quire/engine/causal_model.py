"""The model as a function: `logits, past_kvs = model(input_ids, past_kvs, use_cache)`, for loops written by hand."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Unpack, cast

import numpy as np
import numpy.typing as npt

from quire.config import KERNEL_TILE_TOKENS
from quire.engine.batch import build_batch
from quire.engine.capacity import require_logit_room
from quire.engine.loading import load_executor
from quire.engine.options import EngineOptions, ModelOptions, model_config
from quire.engine.past_kvs import PastKVs, PastStore
from quire.engine.past_tiles import PastRow, TokenSpan
from quire.engine.prompts import read_switch
from quire.engine.resolve import context_bound, pool_bound, settled
from quire.engine.uncopyable import Uncopyable
from quire.errors import EmptyPromptError, PromptTooLongError, RequestError
from quire.executors.protocol import Executor, Float32Array
from quire.kv.layout import KVLayout
from quire.models.spec import ModelSpec
from quire.sched.limits import ContextBound
from quire.sched.plan import ScheduledChunk
from quire.text.tokenizer import Tokenizer
from quire.text.tokenizer_fit import require_fit
from quire.values import shown

MAX_STEP_TOKENS = 512


def load_model(
    path: str | Path | None = None, executor: str = "native", dtype: str = "float32", **options: Unpack[ModelOptions]
) -> CausalModel:
    """Loads a checkpoint directory, GGUF file or hub id (None: the bundled model) as a function from tokens to logits.

    Raises ModelNotFoundError, ModelError, ConfigError, or ExecutorUnavailableError where the executor is not installed.
    """
    asked = cast(EngineOptions, {**options, "executor": executor, "dtype": dtype})
    checkpoint, loaded, config = load_executor(path, model_config(asked), options.get("on_progress"))
    store = PastStore(loaded, pool_bound(config, checkpoint.spec))
    max_context = settled(config.max_context, "max_context")
    bound = context_bound(config, checkpoint.spec, checkpoint.model_context)
    return CausalModel(store, max_context, checkpoint.directory, bound)


class CausalModel(Uncopyable):
    """A decoder-only model over a paged KV cache. Threads may share it: one call computes at a time, the others wait."""

    def __init__(
        self, store: PastStore, max_context: int, directory: Path, context_bound: ContextBound = ContextBound.MODEL
    ) -> None:
        self._executor = store.executor
        self._context_bound = context_bound
        self._directory = directory
        self._store = store
        self.max_context = max_context

    @property
    def spec(self) -> ModelSpec:
        return self._executor.spec

    @property
    def executor(self) -> Executor:
        return self._executor

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer next to the weights, read when first asked for; raises TokenizerError if there is none that fits."""
        tokenizer = Tokenizer.from_model(self._directory)
        require_fit(tokenizer, self.spec.vocab_size)
        return tokenizer

    @property
    def num_free_blocks(self) -> int:
        """Blocks of KV memory that no living `past_kvs` holds."""
        with self._store.lock:
            return self._store.num_free_blocks

    def check(self) -> None:
        """Raises IntegrityError unless every block is accounted for."""
        with self._store.lock:
            self._store.check()

    def __call__(
        self, input_ids: npt.ArrayLike, past_kvs: PastKVs | None = None, use_cache: bool = True
    ) -> tuple[Float32Array, PastKVs | None]:
        """Returns logits [B, T, V] float32 of `input_ids` [B, T] that follow `past_kvs`, and the cache that includes them.

        Without `use_cache` the second value is None and nothing stays in memory. The past is never changed, so it may be
        continued several times. Raises RequestError for tokens that do not fit and CapacityError when KV memory is out.
        """
        is_kept = read_switch("use_cache", use_cache)
        tokens = self._checked(input_ids, past_kvs)
        with self._store.lock:
            return self._computed(tokens, past_kvs, is_kept)

    def _computed(
        self, tokens: npt.NDArray[np.int64], past_kvs: PastKVs | None, is_kept: bool
    ) -> tuple[Float32Array, PastKVs | None]:
        num_past = past_kvs.num_tokens if past_kvs is not None else 0
        rows = self._store.extend(past_kvs, tokens)
        try:
            logits = self._run(tokens, rows, past_kvs)
        except BaseException:
            self._store.release(rows)
            raise
        if not is_kept:
            self._store.release(rows)
            return logits, None
        return logits, self._store.handle(rows, num_past + tokens.shape[1])

    def _run(self, tokens: npt.NDArray[np.int64], rows: tuple[PastRow, ...], past: PastKVs | None) -> Float32Array:
        logits = np.empty((*tokens.shape, self.spec.vocab_size), dtype=np.float32)
        layout, num_past = self._executor.layout, past.num_tokens if past is not None else 0
        size = min(len(rows), MAX_STEP_TOKENS, self._executor.num_own_tiles or MAX_STEP_TOKENS)
        for first in range(0, len(rows), size):
            group = slice(first, first + size)
            own_tiles = self._store.own_tiles(rows[group], past.rows[group] if past is not None else ())
            sources = {
                row.table_id: TokenSpan(num_past, ids.tolist()) for row, ids in zip(rows[group], tokens[group], strict=True)
            }
            for start, stop in _chunk_borders(layout, num_past, num_past + tokens.shape[1], MAX_STEP_TOKENS // size):
                chunks = [_chunk(row, start, stop, own_tile) for row, own_tile in zip(rows[group], own_tiles, strict=True)]
                found = self._executor.run(build_batch(chunks, sources, layout)).reshape(len(chunks), stop - start, -1)
                logits[group, start - num_past : stop - num_past] = found
        return logits

    def _checked(self, input_ids: npt.ArrayLike, past_kvs: PastKVs | None) -> npt.NDArray[np.int64]:
        try:
            tokens = np.asarray(input_ids)
        except (ValueError, TypeError, RuntimeError) as error:
            raise RequestError(
                "input_ids is no array: its rows have different lengths, or it lies where NumPy cannot read it",
                given=shown(input_ids),
                next_step="Pass rows of one length, or one row per call.",
            ) from error
        if tokens.ndim != 2 or not (np.issubdtype(tokens.dtype, np.integer) or tokens.size == 0):
            raise RequestError(
                "input_ids must be integers in the shape [B, T]",
                given=f"{shown(input_ids)}, {tokens.dtype} {list(tokens.shape)}",
                next_step="Wrap one prompt as [[id, id, ...]].",
            )
        if tokens.size == 0:
            raise EmptyPromptError("input_ids holds no tokens", given=list(tokens.shape), next_step="Pass at least one token.")
        if tokens.min() < 0 or tokens.max() >= self.spec.vocab_size:
            raise RequestError(
                "a token id is outside the vocabulary",
                given=f"{tokens.min()} to {tokens.max()}",
                limit=f"0 to {self.spec.vocab_size - 1}",
                next_step="Encode the text with this model's tokenizer.",
            )
        self._check_past(tokens, past_kvs)
        require_logit_room(tokens.shape, self.spec.vocab_size)
        return tokens.astype(np.int64)

    def _check_past(self, tokens: npt.NDArray[np.integer], past_kvs: PastKVs | None) -> None:
        if past_kvs is not None and not isinstance(past_kvs, PastKVs):
            raise RequestError(
                "past_kvs is not a cache",
                given=shown(past_kvs),
                next_step="Pass the past_kvs that this model returned, or None to begin.",
            )
        if past_kvs is not None and not past_kvs.belongs_to(self._executor):
            raise RequestError("past_kvs comes from another model", next_step="Pass what this model returned.")
        if past_kvs is not None and past_kvs.batch_size != len(tokens):
            raise RequestError(
                "past_kvs has another number of rows",
                given=len(tokens),
                limit=past_kvs.batch_size,
                next_step="Continue every row of the batch.",
            )
        num_tokens = tokens.shape[1] + (past_kvs.num_tokens if past_kvs is not None else 0)
        if num_tokens > self.max_context:
            raise PromptTooLongError(
                "past and new tokens exceed the context",
                given=num_tokens,
                limit=self.max_context,
                next_step=f"Start again with fewer tokens{self._context_bound.or_raise}.",
            )


def _chunk(row: PastRow, start: int, stop: int, own_tile: int) -> ScheduledChunk:
    return ScheduledChunk(
        request_id=row.table_id,
        start=start,
        num_tokens=stop - start,
        block_ids=row.block_ids,
        num_sample_rows=stop - start,
        own_tile=own_tile,
    )


def _chunk_borders(layout: KVLayout, start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """Yields the borders of chunks of about `size` tokens; with own tiles, one that begins inside a tile ends in it."""
    if layout.has_own_tiles:
        size = max(KERNEL_TILE_TOKENS, size - size % KERNEL_TILE_TOKENS)
    while start < stop:
        in_tile = start % KERNEL_TILE_TOKENS if layout.has_own_tiles else 0
        end = min(stop, start + (KERNEL_TILE_TOKENS - in_tile if in_tile else size))
        yield start, end
        start = end
