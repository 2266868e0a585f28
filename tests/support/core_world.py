"""Decoders of the compiled core and steps for them, made by hand: without the checks that the executor makes before."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from quire.arrays import Int32Array
from quire.executors.native import load_core
from quire.executors.native_shape import shape_of
from quire.models.spec import ModelSpec
from support.configs import spec_of
from support.weights import random_weights

SPEC = spec_of("llama")
BLOCK_SIZE, NUM_BLOCKS, NUM_ROWS = 32, 8, 40
BYTES_PER_BLOCK = 2 * SPEC.num_layers * SPEC.num_kv_heads * SPEC.head_dim * BLOCK_SIZE * 4
REFUSALS = (TypeError, ValueError, OverflowError, BufferError)


def ints(*values: int) -> Int32Array:
    return np.array(values, np.int32)


def floats(*shape: int) -> npt.NDArray[np.float32]:
    return np.zeros(shape, np.float32)


def misaligned(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Returns the same values one byte behind where they may begin."""
    moved = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    moved[...] = array
    return moved


def empty_decoder(spec: ModelSpec = SPEC, threads: int = 1) -> Any:
    core = load_core()
    return core.Decoder(shape_of(core, spec), core.PanelFormat(), {}, "", threads)


def set_weight(decoder: Any, name: str, values: npt.NDArray[np.float32]) -> None:
    if values.ndim == 1 or name == "position.weight":
        decoder.set_vector(name, values.reshape(-1))
    else:
        decoder.set_matrix(name, values)


def decoder_of(spec: ModelSpec = SPEC, without: str = "") -> Any:
    decoder = empty_decoder(spec)
    for name, tensor in random_weights(spec).items():
        if name != without:
            set_weight(decoder, name, tensor.to_float32())
    per_token = 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim * 4
    decoder.allocate_kv(NUM_BLOCKS, BLOCK_SIZE, load_core().KVFormat.F32, BLOCK_SIZE * per_token)
    return decoder


def step_of(**changes: npt.NDArray[Any]) -> dict[str, Any]:
    """Returns the arrays of a step of two requests, of 30 tokens and of 10 after 33, with some of them changed."""
    positions = np.concatenate([np.arange(30), np.arange(33, 43)]).astype(np.int32)
    return {
        "token_ids": np.arange(NUM_ROWS, dtype=np.int32),
        "positions": positions,
        "query_start": ints(0, 30, NUM_ROWS),
        "context_lens": ints(30, 43),
        "block_tables": np.array([[5, 0], [2, 7]], np.int32),
        "slots": np.where(np.arange(NUM_ROWS) < 30, 5 * BLOCK_SIZE + positions, 6 * BLOCK_SIZE + positions).astype(np.int32),
        "sample_rows": ints(29, 39),
        "logits": floats(2, SPEC.vocab_size),
    } | changes
