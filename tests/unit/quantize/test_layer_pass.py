"""A model computed one layer at a time: the rows of the whole model, and what its products multiply."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quire.config import DType, KVFormat
from quire.errors import ExecutorError
from quire.executors.native import NativeExecutor, available_isas
from quire.executors.native_layer import NativeLayer
from quire.executors.options import ExecutorOptions
from quire.executors.protocol import StepBatch, kv_layout
from quire.models.checkpoint import Checkpoint
from quire.models.spec import ModelSpec
from quire.quantize.importance import measure_importance
from quire.quantize.layer_pass import Residual, embed, input_of, layer_tensors
from support.configs import CONFIGS, spec_of
from support.weights import random_weights

pytestmark = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")
PIECES = [[3, 1, 4, 1, 5, 9, 2, 6], list(range(40))]
FAMILIES = tuple(CONFIGS)


def checkpoint_of(spec: ModelSpec) -> Checkpoint:
    return Checkpoint(directory=Path("nowhere"), spec=spec, weights=random_weights(spec), model_context=spec.max_context)


def passed(checkpoint: Checkpoint, threads: int = 1) -> Residual:
    residual = embed(checkpoint, PIECES)
    for index in range(checkpoint.spec.num_layers):
        for _ in residual.advanced(index, layer_tensors(checkpoint, index), threads):
            pass
    return residual


def whole_model_argmax(checkpoint: Checkpoint, piece: list[int]) -> list[int]:
    layout = kv_layout(checkpoint.spec, 64, KVFormat.FLOAT32)
    executor = NativeExecutor(
        checkpoint.spec, checkpoint.weights, ExecutorOptions(layout=layout, num_blocks=1, dtype=DType.FLOAT32)
    )
    rows = np.arange(len(piece), dtype=np.int32)
    step = StepBatch(
        token_ids=np.array(piece, np.int32),
        positions=rows,
        query_start=np.array([0, len(piece)], np.int32),
        context_lens=np.array([len(piece)], np.int32),
        block_tables=np.zeros((1, 1), np.int32),
        slot_mapping=rows,
        sample_rows=rows,
    )
    return executor.run(step).argmax(axis=1).tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_layer_by_layer_is_the_whole_model(family: str) -> None:
    checkpoint = checkpoint_of(spec_of(family))
    importance = measure_importance(checkpoint, PIECES, 1)
    head = "embed.weight" if checkpoint.spec.is_head_tied else "head.weight"
    matrix = checkpoint.weights[head].to_float32()
    squares = np.zeros(matrix.shape[1])
    for piece, rows in zip(PIECES, passed(checkpoint).rows, strict=True):
        final = _normalized(checkpoint, rows)
        assert (final @ matrix.T).argmax(axis=1).tolist() == whole_model_argmax(checkpoint, piece)
        squares += np.square(final, dtype=np.float64).sum(axis=0)
    np.testing.assert_allclose(importance[head], squares / sum(map(len, PIECES)), rtol=1e-5)


def _normalized(checkpoint: Checkpoint, rows: np.ndarray) -> np.ndarray:
    spec, weight = checkpoint.spec, checkpoint.weights["final_norm.weight"].to_float32()
    wide = rows.astype(np.float64)
    if "final_norm.bias" in checkpoint.weights:
        wide -= wide.mean(axis=1, keepdims=True)
        bias = checkpoint.weights["final_norm.bias"].to_float32()
        return wide / np.sqrt(np.square(wide).mean(axis=1, keepdims=True) + spec.norm_eps) * weight + bias
    return wide / np.sqrt(np.square(wide).mean(axis=1, keepdims=True) + spec.norm_eps) * weight


@pytest.mark.parametrize("family", FAMILIES)
def test_the_number_of_threads_changes_no_bit_of_the_importance(family: str) -> None:
    checkpoint = checkpoint_of(spec_of(family))
    one, two = (measure_importance(checkpoint, PIECES, threads) for threads in (1, 2))
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_importance_is_the_mean_square_of_what_each_matrix_multiplies() -> None:
    checkpoint = checkpoint_of(spec_of("llama"))
    found = measure_importance(checkpoint, PIECES, 1)
    shapes = checkpoint.spec.tensor_shapes()
    matrices = {name for name, shape in shapes.items() if name.startswith("layers.") and len(shape) == 2}
    assert matrices < found.keys()
    residual, tensors = embed(checkpoint, PIECES), layer_tensors(checkpoint, 0)
    inputs = list(residual.observed(0, tensors, 1))
    for name in (name for name in matrices if name.startswith("layers.0.")):
        rows = np.concatenate([getattr(each, input_of(name)) for each in inputs])
        assert rows.shape[1] == shapes[name][1]
        np.testing.assert_allclose(found[name], np.square(rows.astype(np.float64)).mean(axis=0), rtol=1e-6)


def test_observing_leaves_the_rows_as_they_are() -> None:
    checkpoint = checkpoint_of(spec_of("llama"))
    residual = embed(checkpoint, PIECES)
    before = [rows.copy() for rows in residual.rows]
    list(residual.observed(0, layer_tensors(checkpoint, 0), 1))
    assert all(map(np.array_equal, residual.rows, before))


def test_the_products_of_a_layer_turn_its_inputs_into_its_output() -> None:
    checkpoint = checkpoint_of(spec_of("llama"))
    residual, tensors = embed(checkpoint, PIECES), layer_tensors(checkpoint, 0)
    before = residual.rows[1].copy()
    *_, inputs = residual.advanced(0, tensors, 1)
    after = before + inputs.out @ tensors["layers.0.attn.out.weight"].T + inputs.down @ tensors["layers.0.ffn.down.weight"].T
    np.testing.assert_allclose(residual.rows[1], after, rtol=1e-4, atol=1e-4)


def test_more_tokens_than_the_layer_has_room_for_are_refused() -> None:
    checkpoint = checkpoint_of(spec_of("llama"))
    tensors = {name.removeprefix("layers.0."): values for name, values in layer_tensors(checkpoint, 0).items()}
    layer = NativeLayer(checkpoint.spec, 0, tensors, max_tokens=32, threads=1)
    with pytest.raises(ExecutorError, match="outside the context"):
        layer.run(np.zeros((33, checkpoint.spec.hidden_size), np.float32))


def test_a_layer_without_one_of_its_tensors_names_it() -> None:
    checkpoint = checkpoint_of(replace(spec_of("llama"), has_qkv_bias=False))
    tensors = {name.removeprefix("layers.0."): values for name, values in layer_tensors(checkpoint, 0).items()}
    del tensors["attn.q.weight"]
    layer = NativeLayer(checkpoint.spec, 0, tensors, max_tokens=32, threads=1)
    with pytest.raises(ExecutorError, match=r"attn\.q"):
        layer.run(np.zeros((2, checkpoint.spec.hidden_size), np.float32))
