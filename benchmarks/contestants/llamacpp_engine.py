"""llama.cpp as a contestant, through llama-cpp-python's low-level bindings, on a GGUF file of the same weights."""

from __future__ import annotations

import ctypes
from itertools import repeat
from typing import Any

import llama_cpp
import numpy as np

from .gguf_model import write_gguf
from .protocol import Contestant, ContestantError, Entry, Reading
from .timing import timed_steps
from .workloads import Prompts

_MICRO_BATCH = 512
_MIN_CONTEXT = 256  # llama.cpp rounds contexts up to this


@llama_cpp.llama_log_callback
def _silence(_level: int, _text: bytes, _data: ctypes.c_void_p) -> None:
    """Drops what the library would print."""


class LlamaCppContestant:
    """A model; every run has a context of its own that is just as large as it needs, which is llama.cpp's best case."""

    def __init__(self, entry: Entry) -> None:
        llama_cpp.llama_log_set(_silence, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        path = write_gguf(entry.model, entry.number_format)
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        if model is None:
            raise ContestantError(f"llama.cpp cannot load {path.name}")
        self._model = model
        self._threads = entry.threads
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    @property
    def facts(self) -> dict[str, str]:
        system = llama_cpp.llama_print_system_info().decode()
        settings = {"n_ubatch": str(_MICRO_BATCH), "kv": "f16", "flash attention": "auto"}
        return {"llama-cpp-python": llama_cpp.__version__, "system": " ".join(system.split()), **settings}

    def run(self, prompts: Prompts, num_new: int) -> Reading:
        context = self._context(len(prompts), len(prompts[0]) + num_new)
        batch = llama_cpp.llama_batch_init(sum(map(len, prompts)), 0, 1)
        try:
            return timed_steps(_Steps(context, batch, prompts, self._vocab_size), num_new)
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
        context = llama_cpp.llama_init_from_model(self._model, params)
        if context is None:
            raise ContestantError("llama.cpp cannot make a context")
        return context


class _Steps:
    """The prompts in one call, then a token of every request in each."""

    def __init__(self, context: Any, batch: Any, prompts: Prompts, vocab_size: int) -> None:
        self._context = context
        self._batch = batch
        self._vocab_size = vocab_size
        self._pending: Prompts = prompts
        self._num_computed = 0
        self._tokens: list[list[int]] = [[] for _ in prompts]

    def __call__(self) -> list[list[int]]:
        rows = self._fill()
        status = llama_cpp.llama_decode(self._context, self._batch)
        if status != 0:
            raise ContestantError(f"llama_decode returned {status}")
        self._num_computed += len(self._pending[0])
        self._pending = [[self._best(row)] for row in rows]
        for tokens, new in zip(self._tokens, self._pending, strict=True):
            tokens.extend(new)
        return self._tokens

    def _fill(self) -> list[int]:
        """Puts the pending tokens into the batch; returns the row of each request's last one, whose logits are wanted."""
        last_rows: list[int] = []
        row = 0
        for request, tokens in enumerate(self._pending):
            for offset, (token, is_last) in enumerate(zip(tokens, [*repeat(False, len(tokens) - 1), True], strict=True)):
                self._batch.token[row] = token
                self._batch.pos[row] = self._num_computed + offset
                self._batch.n_seq_id[row] = 1
                self._batch.seq_id[row][0] = request
                self._batch.logits[row] = is_last
                row += 1
            last_rows.append(row - 1)
        self._batch.n_tokens = row
        return last_rows

    def _best(self, row: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(self._context, row)
        return int(np.ctypeslib.as_array(logits, shape=(self._vocab_size,)).argmax())


def open_contestant(entry: Entry) -> Contestant:
    """Writes the GGUF file beside the checkpoint unless it is there, and loads it."""
    return LlamaCppContestant(entry)
