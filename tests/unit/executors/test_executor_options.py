"""The one value that executors are built from."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from quire.config import DType, KVFormat, Quantize
from quire.executors.native import NativeExecutor, available_isas
from quire.executors.options import ExecutorOptions
from quire.executors.packing import PackLayout
from quire.executors.protocol import kv_layout
from quire.executors.reference import ReferenceExecutor
from quire.executors.torch_executor import TorchExecutor
from support.configs import spec_of
from support.steps import step
from support.weights import random_weights

SPEC = spec_of("llama")


def options_of(**changes: object) -> ExecutorOptions:
    values = {"layout": kv_layout(SPEC, 32, KVFormat.FLOAT32), "num_blocks": 2, "dtype": DType.FLOAT32} | changes
    return ExecutorOptions(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_options_travel_between_processes(protocol: int) -> None:
    options = options_of(
        dtype=DType.BFLOAT16, quantize=Quantize.INT4, threads=3, int_layout=PackLayout.AMX, packed_cache=Path("kept")
    )
    assert pickle.loads(pickle.dumps(options, protocol)) == options  # noqa: S301 - our own bytes


@pytest.mark.parametrize("kind", [NativeExecutor, ReferenceExecutor, TorchExecutor])
def test_every_executor_is_built_from_them(kind: type[NativeExecutor | ReferenceExecutor | TorchExecutor]) -> None:
    if kind is NativeExecutor and not available_isas():
        pytest.skip("the native core is not compiled here")
    options = options_of(dtype=DType.BFLOAT16)
    executor = kind(SPEC, random_weights(SPEC), options)
    assert (executor.layout, executor.num_blocks) == (options.layout, 2)
    assert f"weights={options.weight_format.value}" in executor.numerics


@pytest.mark.parametrize("kind", [NativeExecutor, ReferenceExecutor, TorchExecutor])
def test_a_submitted_step_has_the_logits_of_a_run(kind: type[NativeExecutor | ReferenceExecutor | TorchExecutor]) -> None:
    if kind is NativeExecutor and not available_isas():
        pytest.skip("the native core is not compiled here")
    executor = kind(SPEC, random_weights(SPEC), options_of())
    batch = step(([5, 3, 8], 0, [0]))
    assert np.array_equal(executor.submit(batch).result(), executor.run(batch))
