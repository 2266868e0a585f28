"""Blocks as bytes: what one executor exports, another one of the same numerics computes on with, to the bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from quire.config import DType, ExecutorKind, KVFormat
from quire.errors import ExecutorError, KVBlockError
from quire.executors import kv_blocks
from quire.executors.native import NativeExecutor, available_isas
from quire.executors.options import ExecutorOptions
from quire.executors.protocol import Executor, kv_layout
from quire.executors.reference import Float64ReferenceExecutor, ReferenceExecutor
from quire.executors.torch_executor import TorchExecutor
from quire.verify.blocks import export_prompt, finish_prompt
from support.configs import spec_of
from support.weights import random_weights

SPEC = spec_of("llama")
NUM_BLOCKS = 7
PROMPT = np.random.default_rng(0).integers(0, SPEC.vocab_size, 70).tolist()
NATIVE = pytest.param(
    NativeExecutor, marks=pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")
)
KINDS = [NATIVE, ReferenceExecutor, Float64ReferenceExecutor, TorchExecutor]

Kind = type[NativeExecutor] | type[ReferenceExecutor] | type[TorchExecutor]


def build(kind: Kind, kv_format: KVFormat = KVFormat.FLOAT32, block_size: int = 32) -> Executor:
    layout = kv_layout(SPEC, block_size, kv_format)
    return kind(SPEC, random_weights(SPEC), ExecutorOptions(layout=layout, num_blocks=NUM_BLOCKS, dtype=DType.FLOAT32))


@pytest.mark.parametrize("kv_format", ExecutorKind.TORCH.kv_formats)
@pytest.mark.parametrize("kind", KINDS)
def test_imported_blocks_give_the_logits_of_computed_ones(kind: Kind, kv_format: KVFormat) -> None:
    first, second = build(kind, kv_format), build(kind, kv_format)
    expected = finish_prompt(first, PROMPT, export_prompt(first, PROMPT))
    blocks = export_prompt(first, PROMPT)
    assert finish_prompt(second, PROMPT, blocks).tobytes() == expected.tobytes()
    for layer in range(SPEC.num_layers):
        theirs = first.read_kv(layer, np.arange(len(PROMPT), dtype=np.int32))
        slots = [(NUM_BLOCKS - 1 - position // 32) * 32 + position % 32 for position in range(len(PROMPT) - 1)]
        mine = second.read_kv(layer, np.array(slots, dtype=np.int32))
        assert [each.tobytes() for each in mine] == [each[:-1].tobytes() for each in theirs]


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_takes_the_planned_bytes_and_a_header(kind: Kind) -> None:
    executor = build(kind)
    data = executor.export_block(0)
    element = 2 if kind is Float64ReferenceExecutor else 1
    assert len(data) - data.index(b"\n") - 1 == element * executor.layout.bytes_per_block


@pytest.mark.parametrize("kind", KINDS)
def test_other_bytes_are_refused_and_change_nothing(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = build(kind)
    block = export_prompt(executor, PROMPT)[0]
    before = [executor.export_block(each) for each in range(NUM_BLOCKS)]
    wrong = [
        b"",
        b"\n",
        block[:-1],
        block + b"\0",
        block[1:],
        b"other" + block,
        build(kind, KVFormat.BFLOAT16).export_block(0),
        build(kind, block_size=64).export_block(0),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(kv_blocks, "VERSION", kv_blocks.VERSION + 1)
        wrong.append(executor.export_block(0))
    for data in wrong:
        with pytest.raises(KVBlockError, match="Compute"):
            executor.import_block(2, data)
    assert [executor.export_block(each) for each in range(NUM_BLOCKS)] == before


def test_executors_that_order_elements_otherwise_are_told_apart() -> None:
    reference, exact = build(ReferenceExecutor), build(Float64ReferenceExecutor)
    with pytest.raises(KVBlockError, match="order or shape"):
        exact.import_block(0, reference.export_block(0))
    if available_isas():
        with pytest.raises(KVBlockError, match="tiles"):
            reference.import_block(0, build(NativeExecutor).export_block(0))


def test_a_long_header_is_shown_in_part() -> None:
    executor = build(ReferenceExecutor)
    header, newline, pages = executor.export_block(0).partition(b"\n")
    with pytest.raises(KVBlockError) as caught:
        executor.import_block(0, header + b"\0\xff" * 100_000 + newline + pages)
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [-1, NUM_BLOCKS])
def test_blocks_outside_the_memory_are_refused(kind: Kind, block: int) -> None:
    executor = build(kind)
    data = executor.export_block(0)
    with pytest.raises(ExecutorError, match="outside"):
        executor.export_block(block)
    with pytest.raises(ExecutorError, match="outside"):
        executor.import_block(block, data)


def test_a_header_names_the_whole_shape() -> None:
    layout = kv_layout(SPEC, 32, KVFormat.FLOAT32)
    headers = {
        kv_blocks.BlockFormat(layout=each, order=order, num_bytes=8).packed(b"")
        for order in kv_blocks.PageOrder
        for each in (
            layout,
            replace(layout, num_layers=layout.num_layers + 1),
            replace(layout, num_kv_heads=layout.num_kv_heads + 1),
            replace(layout, head_dim=layout.head_dim + 1),
            replace(layout, block_size=64),
            replace(layout, format=KVFormat.BFLOAT16),
        )
    }
    assert len(headers) == 12
