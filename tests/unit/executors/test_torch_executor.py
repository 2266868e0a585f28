"""The torch executor gives every request of any step the numbers of the reference, from the same pages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import quire
from quire import LLM, SamplingParams
from quire.config import DType, ExecutorKind, KVFormat
from quire.engine.resolve import is_native_built
from quire.errors import ExecutorError, ExecutorUnavailableError
from quire.executors.options import ExecutorOptions
from quire.executors.protocol import Executor, Float32Array, StepBatch, kv_layout
from quire.executors.reference import ReferenceExecutor
from quire.executors.torch_executor import TorchExecutor
from quire.models.spec import ModelSpec
from quire.models.weights import Weights
from support.configs import CONFIGS, spec_of
from support.steps import BLOCK_SIZE, step
from support.weights import random_weights

NUM_BLOCKS = 16
PROMPT = [7, 250, 3, 3, 90, 11, 42, 0, 199, 8, 17]
ALL_SLOTS = np.arange(NUM_BLOCKS * BLOCK_SIZE, dtype=np.int32)
QUESTIONS = ["What is the capital of France?", "My name is Ada.", "What is 12 + 9?", "Hello!", "Who are you?"]
NEEDS_NATIVE = pytest.mark.skipif(not is_native_built(), reason="the native core is not compiled here")
WINDOWED = spec_of("mistral", sliding_window=3, num_hidden_layers=2)


def pair_of(
    spec: ModelSpec, dtype: DType = DType.FLOAT32, kv_format: KVFormat = KVFormat.FLOAT32
) -> tuple[TorchExecutor, ReferenceExecutor]:
    weights, layout = random_weights(spec), kv_layout(spec, BLOCK_SIZE, kv_format)
    made: dict[str, Any] = {"layout": layout, "num_blocks": NUM_BLOCKS, "dtype": dtype}
    return TorchExecutor(spec, weights, ExecutorOptions(**made)), ReferenceExecutor(spec, weights, ExecutorOptions(**made))


def assert_close(actual: Float32Array, expected: Float32Array, bound: float = 1e-5) -> None:
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=0, atol=bound * np.abs(expected).max(initial=0))


def assert_same_cache(actual: Executor, expected: Executor) -> None:
    for layer in range(actual.spec.num_layers):
        for found, wanted in zip(actual.read_kv(layer, ALL_SLOTS), expected.read_kv(layer, ALL_SLOTS), strict=True):
            assert_close(found, wanted)


@pytest.mark.parametrize("family", CONFIGS)
def test_chunks_of_several_requests_in_one_step_match_the_reference(family: str) -> None:
    ours, reference = pair_of(spec_of(family))
    steps = [
        step((PROMPT[:6], 0, [3, 9, 5]), rows=[]),
        step(([1, 2, 3], 0, [6]), (PROMPT[6:], 6, [3, 9, 5]), ([5] * 7, 0, [8, 7]), rows=[2, 5, 7, 14]),
        step(([4], 3, [6]), ([9], 11, [3, 9, 5]), ([8], 7, [8, 7])),
    ]
    for batch in steps:
        assert_close(ours.run(batch), reference.run(batch))
    assert_same_cache(ours, reference)


@settings(max_examples=20, deadline=None)
@given(cuts=st.sets(st.integers(1, len(PROMPT) - 1)), blocks=st.permutations(range(NUM_BLOCKS)))
def test_any_chunking_into_any_blocks_agrees(cuts: set[int], blocks: list[int]) -> None:
    executor, reference = pair_of(WINDOWED)
    borders = [0, *sorted(cuts), len(PROMPT)]
    parts = [executor.run(step((PROMPT[a:b], a, blocks[:3]))) for a, b in pairwise(borders)]
    assert_close(np.concatenate(parts), reference.run(step((PROMPT, 0, [0, 1, 2]))))


def test_a_copied_block_serves_like_its_source() -> None:
    executor, _ = pair_of(spec_of("llama"))
    expected = executor.run(step((PROMPT, 0, [0, 1, 2])))[8:]
    for source, target in ((0, 10), (1, 11)):
        executor.copy_block(source, target)
    executor.run(step(([1] * 8, 0, [0, 1])))
    assert_close(executor.run(step((PROMPT[8:], 8, [10, 11, 12]))), expected)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3_text"])
def test_narrow_formats_round_as_the_reference_does(family: str) -> None:
    ours, reference = pair_of(spec_of(family), DType.BFLOAT16, KVFormat.BFLOAT16)
    exact, _ = pair_of(spec_of(family))
    batch = step((PROMPT, 0, [0, 1, 2]))
    logits = ours.run(batch)
    assert_close(logits, reference.run(batch), bound=5e-3)  # a value at a tie of the cache's rounding may go either way
    assert np.abs(logits - exact.run(batch)).max() > 1e-4 * np.abs(logits).max()
    keys, values = ours.read_kv(0, ALL_SLOTS)
    assert not ((keys.view(np.uint32) | values.view(np.uint32)) & 0xFFFF).any()


@pytest.mark.parametrize("kv_format", ExecutorKind.TORCH.kv_formats)
def test_the_cache_takes_what_the_capacity_formula_says(kv_format: KVFormat) -> None:
    executor, _ = pair_of(spec_of("llama"), kv_format=kv_format)
    assert executor.kv_bytes == NUM_BLOCKS * executor.layout.bytes_per_block


def test_numerics_name_everything_that_changes_bits() -> None:
    spec = spec_of("llama")
    layouts = [kv_layout(spec, BLOCK_SIZE, kv_format) for kv_format in ExecutorKind.TORCH.kv_formats]
    made = [
        TorchExecutor(spec, random_weights(spec), ExecutorOptions(layout=layout, num_blocks=1, dtype=dtype, threads=threads))
        for layout in layouts
        for dtype in DType
        for threads in (1, 2)
    ]
    assert len({executor.numerics for executor in made}) == 8
    assert torch.__version__ in made[0].numerics
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"token_ids": [251]}, "token id"),
        ({"positions": [512]}, "position"),
        ({"slot_mapping": [NUM_BLOCKS * BLOCK_SIZE]}, "slot"),
        ({"block_tables": [[NUM_BLOCKS]]}, "block id"),
        ({"sample_rows": [1]}, "sampled row"),
        ({"context_lens": [0]}, "context length"),
        ({"context_lens": [2]}, "context_lens do not agree"),
        ({"slot_mapping": [1]}, "where the block table"),
        ({"query_start": [0, 2]}, "query_start"),
        ({"query_start": [0, 1, 1]}, "query_start"),
    ],
)
def test_a_step_out_of_range_is_refused_before_anything_is_written(change: dict[str, Any], problem: str) -> None:
    executor, _ = pair_of(spec_of("llama"))
    good: dict[str, Any] = {
        "token_ids": [5],
        "positions": [0],
        "query_start": [0, 1],
        "context_lens": [1],
        "block_tables": [[0]],
        "slot_mapping": [0],
        "sample_rows": [0],
    }
    batch = StepBatch(**{name: np.array(value, dtype=np.int32) for name, value in (good | change).items()})
    with pytest.raises(ExecutorError, match=problem):
        executor.run(batch)
    assert not executor.read_kv(0, ALL_SLOTS)[0].any()


def test_what_torch_raises_becomes_an_executor_error() -> None:
    executor, _ = pair_of(spec_of("llama"))
    with pytest.raises(ExecutorError, match="torch failed"):
        executor.read_kv(0, np.array([NUM_BLOCKS * BLOCK_SIZE], dtype=np.int32))
    huge: dict[str, Any] = {"layout": executor.layout, "num_blocks": 2**50, "dtype": DType.FLOAT32}
    with pytest.raises(ExecutorError, match="kv_memory"):
        TorchExecutor(executor.spec, random_weights(executor.spec), ExecutorOptions(**huge))


def test_incomplete_weights_are_refused() -> None:
    spec = spec_of("llama")
    weights = {name: tensor for name, tensor in random_weights(spec).items() if name != "head.weight"}
    layout = kv_layout(spec, BLOCK_SIZE, KVFormat.FLOAT32)
    with pytest.raises(ExecutorError, match=r"head\.weight"):
        TorchExecutor(spec, Weights(weights, b""), ExecutorOptions(layout=layout, num_blocks=1, dtype=DType.FLOAT32))


def greedy_tokens(executor: str, dtype: str, sampling: SamplingParams, *, is_chat: bool) -> list[tuple[int, ...]]:
    with LLM(executor=executor, dtype=dtype, kv_memory="8MiB", threads=1) as llm:
        assert llm.core.executor.name.startswith(executor)
        if is_chat:
            outputs = [llm.chat([{"role": "user", "content": question}], sampling)[0] for question in QUESTIONS]
        else:
            outputs = llm.generate(QUESTIONS, sampling)
        return [output.outputs[0].token_ids for output in outputs]


@NEEDS_NATIVE
def test_bundled_model_gives_the_tokens_of_native() -> None:
    """In float32, and far beyond what the model was trained to write."""
    sampling = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
    assert greedy_tokens("torch", "float32", sampling, is_chat=False) == greedy_tokens(
        "native", "float32", sampling, is_chat=False
    )


@NEEDS_NATIVE
@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_bundled_model_gives_the_answers_of_native(dtype: str) -> None:
    """In bfloat16 too, which native rounds in more places: answers hold, ties outside of them need not."""
    sampling = SamplingParams(temperature=0, max_tokens=24)
    assert greedy_tokens("torch", dtype, sampling, is_chat=True) == greedy_tokens("native", dtype, sampling, is_chat=True)


def test_model_driven_by_hand_continues_its_past() -> None:
    model = quire.load_model(executor="torch", kv_memory="4MiB", threads=1)
    whole, _ = model([PROMPT])
    _, past_kvs = model([PROMPT[:6]])
    branches = [model([PROMPT[6:]], past_kvs=past_kvs)[0] for _ in range(2)]
    for logits in branches:
        assert_close(logits, whole[:, 6:])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_is_refused_where_torch_would_wait_for_threads_it_has_not() -> None:
    """In a process of its own, where a child that hangs ends by an alarm."""
    script = f"""
import os, signal, sys, warnings
sys.path[:0] = [{str(Path(__file__).parents[2])!r}, {str(Path(__file__).parent)!r}]
warnings.filterwarnings("ignore", "This process.*is multi-threaded", DeprecationWarning)  # from Python 3.12 on
from test_torch_executor import forked_answers
print(forked_answers(threads=2), forked_answers(threads=1))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert result.stdout == "spawn same\n", result.stderr


def forked_answers(threads: int) -> str:
    """Returns what a child makes of an executor that its parent used: the same numbers, or an error that names spawn."""
    spec = spec_of("llama", intermediate_size=2048)
    layout = kv_layout(spec, BLOCK_SIZE, KVFormat.FLOAT32)
    made = {"layout": layout, "num_blocks": NUM_BLOCKS, "dtype": DType.FLOAT32, "threads": threads}
    executor, batch = TorchExecutor(spec, random_weights(spec), ExecutorOptions(**made)), step((PROMPT, 0, [0, 1, 2]))
    expected = executor.run(batch)
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        signal.alarm(30)
        try:
            answer = "same" if np.array_equal(executor.run(batch), expected) else "other"
        except ExecutorError as error:
            answer = "spawn" if "spawn" in str(error) else str(error)
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader) as answers:
        return answers.read()


def test_missing_torch_is_explained_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "quire.executors.torch_executor")
    monkeypatch.delitem(sys.modules, "quire.executors.torch_decoder")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ExecutorUnavailableError, match=r"pip install 'quire\[torch\]'"):
        LLM(executor="torch", kv_memory="4MiB")


@pytest.mark.parametrize("index", [0, 1], ids=["torch", "reference"])
def test_heads_of_the_latest_step_are_what_run_returns(index: int) -> None:
    executor = pair_of(spec_of("gemma3_text"))[index]
    no_rows = step((PROMPT, 0, [0, 1, 2]), rows=[])
    with pytest.raises(ExecutorError, match="latest step"):
        executor.head(np.array([0], np.int32))
    whole = executor.run(step((PROMPT, 0, [0, 1, 2])))
    executor.run(no_rows)
    rows = np.arange(len(PROMPT), dtype=np.int32)
    assert_close(np.concatenate([executor.head(rows[:4]), executor.head(rows[4:])]), whole)
    for outside in (-1, len(PROMPT)):
        with pytest.raises(ExecutorError, match="latest step"):
            executor.head(np.array([outside], np.int32))
