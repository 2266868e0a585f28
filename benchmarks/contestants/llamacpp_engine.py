"""llama.cpp as a contestant, through llama-cpp-python's low-level bindings, on a GGUF file of the same weights."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import llama_cpp
import numpy as np

from .llamacpp_model import LlamaCppModel
from .protocol import Contestant, ContestantError, Entry, Prompts, Reading, Task
from .timing import timed_steps

_MICRO_BATCH = 512
_MIN_CONTEXT = 256  # llama.cpp rounds contexts up to this
_WITHOUT_FLASH = "llama.cpp-no-flash"


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Tokens of one sequence to compute; `wants_last` asks for the logits of the last one."""

    sequence: int
    tokens: Sequence[int]
    wants_last: bool = True


class LlamaCppContestant:
    """A model; every run has a context of its own that is just as large as it needs, which is llama.cpp's best case."""

    def __init__(self, entry: Entry) -> None:
        self._model = LlamaCppModel(entry.model, entry.number_format)
        self._threads = entry.threads
        self._has_flash = entry.engine != _WITHOUT_FLASH

    @property
    def facts(self) -> dict[str, str]:
        flash = "on" if self._has_flash else "off"
        return {**self._model.facts, "n_ubatch": str(_MICRO_BATCH), "kv": "f16", "flash attention": flash, "mmap": "off"}

    def run(self, task: Task) -> Reading:
        prompts = task.prompts
        context = self._context(len(prompts), len(prompts[0]) + task.num_new)
        batch = llama_cpp.llama_batch_init(sum(map(len, prompts)), 0, 1)
        steps = _Steps(context, batch, prompts, self._model.vocab_size)
        try:
            steps.compute_prefix(task.num_known)
            steps.num_shared = task.num_shared
            return timed_steps(steps, task.num_new)
        finally:
            llama_cpp.llama_batch_free(batch)
            llama_cpp.llama_free(context)

    def _context(self, num_requests: int, num_tokens: int) -> Any:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = num_requests * max(num_tokens, _MIN_CONTEXT)
        params.n_batch = params.n_ctx
        params.n_ubatch = _MICRO_BATCH
        params.n_seq_max = num_requests
        params.n_threads = params.n_threads_batch = self._threads
        params.flash_attn_type = int(self._has_flash)
        return self._model.context(params)


class _Steps:
    """The prompts in one call, then a token of every request in each. A shared prefix goes first, and is copied."""

    def __init__(self, context: Any, batch: Any, prompts: Prompts, vocab_size: int) -> None:
        self.num_shared = 0
        self._context = context
        self._batch = batch
        self._vocab_size = vocab_size
        self._pending: Prompts = prompts
        self._num_computed = 0
        self._tokens: list[list[int]] = [[] for _ in prompts]

    def compute_prefix(self, num_tokens: int) -> None:
        """Computes what all prompts begin with once, and gives every sequence a copy."""
        if num_tokens == 0:
            return
        self._decode([_Chunk(0, self._pending[0][:num_tokens], wants_last=False)])
        memory = llama_cpp.llama_get_memory(self._context)
        for sequence in range(1, len(self._pending)):
            llama_cpp.llama_memory_seq_cp(memory, 0, sequence, -1, -1)
        self._pending = [tokens[num_tokens:] for tokens in self._pending]
        self._num_computed = num_tokens

    def __call__(self) -> list[list[int]]:
        self.compute_prefix(self.num_shared)
        self.num_shared = 0
        last_rows = self._decode([_Chunk(sequence, tokens) for sequence, tokens in enumerate(self._pending)])
        self._num_computed += len(self._pending[0])
        self._pending = [[self._best(row)] for row in last_rows]
        for tokens, new in zip(self._tokens, self._pending, strict=True):
            tokens.extend(new)
        return self._tokens

    def _decode(self, chunks: Sequence[_Chunk]) -> list[int]:
        """Computes the chunks, all from the same position on; returns the row of each one's last token."""
        last_rows: list[int] = []
        row = 0
        for chunk in chunks:
            for offset, token in enumerate(chunk.tokens):
                self._batch.token[row] = token
                self._batch.pos[row] = self._num_computed + offset
                self._batch.n_seq_id[row] = 1
                self._batch.seq_id[row][0] = chunk.sequence
                self._batch.logits[row] = chunk.wants_last and offset == len(chunk.tokens) - 1
                row += 1
            last_rows.append(row - 1)
        self._batch.n_tokens = row
        status = llama_cpp.llama_decode(self._context, self._batch)
        if status != 0:
            raise ContestantError(f"llama_decode returned {status}")
        llama_cpp.llama_synchronize(self._context)
        return last_rows

    def _best(self, row: int) -> int:
        logits = ctypes.cast(llama_cpp.llama_get_logits_ith(self._context, row), ctypes.POINTER(ctypes.c_float))
        return int(np.ctypeslib.as_array(logits, shape=(self._vocab_size,)).argmax())


def open_contestant(entry: Entry) -> Contestant:
    """Writes the GGUF file beside the checkpoint unless it is there, and loads it."""
    return LlamaCppContestant(entry)
