"""llama.cpp's logits of every position of known texts, for benchmarks/quality_versus_llamacpp.py; run inside benchmarks/.

    python -m contestants.llamacpp_logits MODEL Q8_0 pieces.json DIRECTORY --kv f32

pieces.json holds a list of lists of token ids; DIRECTORY receives 0.npy, 1.npy, ... of float32 [T, V], and bits.json: bits per
weight of all matrices of the file, and of those of layers.
"""

from __future__ import annotations

import argparse
import ctypes
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from .gguf_model import file_bits
from .llamacpp_model import LlamaCppModel, gguf_of
from .protocol import ContestantError

_KV_TYPES = {"f32": llama_cpp.GGML_TYPE_F32, "f16": llama_cpp.GGML_TYPE_F16}
_MICRO_BATCH = 512


def main() -> None:
    parser = argparse.ArgumentParser(prog="contestants.llamacpp_logits", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("number_format")
    parser.add_argument("pieces", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kv", choices=tuple(_KV_TYPES), required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    model = LlamaCppModel(arguments.model, arguments.number_format)
    bits = file_bits(gguf_of(arguments.model, arguments.number_format))
    (arguments.out / "bits.json").write_text(json.dumps(bits))
    for index, token_ids in enumerate(json.loads(arguments.pieces.read_text())):
        context = model.context(_params(len(token_ids), arguments.kv, arguments.threads))
        try:
            np.save(arguments.out / f"{index}.npy", _all_logits(context, token_ids, model.vocab_size))
        finally:
            llama_cpp.llama_free(context)


def _params(num_tokens: int, kv: str, threads: int) -> Any:
    """Returns the settings of a context of its own; only without flash attention may V be float32 on every machine."""
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = num_tokens
    params.n_ubatch = _MICRO_BATCH
    params.n_threads = params.n_threads_batch = threads
    params.type_k = params.type_v = _KV_TYPES[kv]
    params.flash_attn_type = 0
    return params


def _all_logits(context: Any, token_ids: Sequence[int], vocab_size: int) -> npt.NDArray[np.float32]:
    batch = llama_cpp.llama_batch_init(len(token_ids), 0, 1)
    try:
        for row, token in enumerate(token_ids):
            batch.token[row], batch.pos[row], batch.n_seq_id[row], batch.logits[row] = token, row, 1, True
            batch.seq_id[row][0] = 0
        batch.n_tokens = len(token_ids)
        status = llama_cpp.llama_decode(context, batch)
        if status != 0:
            raise ContestantError(f"llama_decode returned {status}")
        logits = ctypes.cast(llama_cpp.llama_get_logits(context), ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(logits, shape=(len(token_ids), vocab_size)).copy()
    finally:
        llama_cpp.llama_batch_free(batch)


if __name__ == "__main__":
    main()
