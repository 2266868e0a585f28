"""Promise 1, bit by bit: the logits of a token depend on the tokens before it and on nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.config import DType, KVFormat, Quantize, WeightFormat
from quire.executors.native import NativeExecutor, available_isas
from quire.executors.options import ExecutorOptions
from quire.executors.prefetch import Prefetch
from quire.executors.protocol import Executor, Float32Array, StepBatch, kv_layout
from quire.executors.reference import ReferenceExecutor
from quire.models.checkpoint import Checkpoint, load_checkpoint
from quire.models.group_format import GroupFormat, Offset, ScaleType
from quire.models.weights import SourceDType, SourceTensor, Weights
from quire.verify.replay import ORACLE, Prefix, Replay, Scenario, blocks_needed, grid, replay, took_place
from support.configs import spec_of
from support.gguf_quantized import quantized_file
from support.group_tensors import group_weights
from support.weights import random_weights

pytestmark = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")

NUM_NEW = 8
FORMATS = [
    pytest.param(DType.FLOAT32, Quantize.NONE, id="float32"),
    pytest.param(DType.BFLOAT16, Quantize.NONE, id="bfloat16"),
    pytest.param(DType.FLOAT32, Quantize.INT8, id="int8"),
    pytest.param(DType.BFLOAT16, Quantize.INT4, id="int4"),
]
"""Number formats of weights; the cache takes that of `DType`."""
KINDS = {
    "gguf-32": ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4"),
    "gguf-256": ("Q4_K", "Q6_K", "Q5_K", "Q3_K", "IQ4_XS"),
}
_HALF, _BRAIN = ScaleType.FLOAT16, ScaleType.BFLOAT16
GROUP_FORMATS = (
    GroupFormat(4, 64, _BRAIN, Offset.ZERO_POINT),
    GroupFormat(8, 128, _HALF, Offset.CENTER),
    GroupFormat(4, 128, _HALF, Offset.ZERO_POINT),
    GroupFormat(8, 32, _BRAIN, Offset.MINIMUM),
    GroupFormat(6, 64, _HALF, Offset.MINIMUM),
    GroupFormat(5, 128, _BRAIN, Offset.MINIMUM),
    GroupFormat(8, 64, _BRAIN, Offset.ZERO_POINT),
    GroupFormat(6, 32, _HALF, Offset.CENTER),
)
_GROUPED = {"num_hidden_layers": 2, "num_attention_heads": 7, "num_key_value_heads": 1, "head_dim": 24}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2-untied-gelu": (
        "gpt2",
        {"n_embd": 168, "n_layer": 2, "n_inner": 100, "tie_word_embeddings": False, "activation_function": "gelu"},
    ),
    "llama-biases": ("llama", {**_GROUPED, "attention_bias": True, "mlp_bias": True}),
    "gemma3-windows": (
        "gemma3_text",
        {**_GROUPED, "num_hidden_layers": 4, "sliding_window": 16, "final_logit_softcapping": 20.0},
    ),
    "long-llama": ("llama", {"max_position_embeddings": 2048}),
    "long-gemma3": ("gemma3_text", {"max_position_embeddings": 2048, "sliding_window": 700}),
}
"""A family and what changes in its small config: 7 query heads per kv head, 24 elements per head, biases."""
VOCAB = 251
PROMPT = [
    int(token) for token in np.random.default_rng(0).integers(0, VOCAB, 93)
]  # prompt and new tokens cross three block borders


@pytest.fixture(scope="module", params=["gpt2-untied-gelu", "llama-biases"])
def checkpoint(request: pytest.FixtureRequest) -> Checkpoint:
    return make_checkpoint(str(request.param))


def make_checkpoint(name: str) -> Checkpoint:
    family, changes = MODELS[name]
    spec = spec_of(family, **changes)
    return Checkpoint(directory=Path(name), spec=spec, weights=random_weights(spec), model_context=spec.max_context)


def make_executor(
    checkpoint: Checkpoint,
    dtype: DType = DType.FLOAT32,
    quantize: Quantize = Quantize.NONE,
    threads: int = 1,
    *,
    block_size: int = 32,
    num_tokens: int = len(PROMPT) + NUM_NEW,
) -> Executor:
    return NativeExecutor(
        checkpoint.spec,
        checkpoint.weights,
        ExecutorOptions(
            layout=kv_layout(checkpoint.spec, block_size, KVFormat(dtype.value)),
            num_blocks=blocks_needed(num_tokens, block_size),
            dtype=dtype,
            quantize=quantize,
            threads=threads,
        ),
    )


def assert_same_bits(found: Replay, expected: Replay, scenario: Scenario) -> None:
    assert found.logits.shape == expected.logits.shape
    differing = np.flatnonzero((found.logits.view(np.uint32) != expected.logits.view(np.uint32)).any(axis=1))
    assert not len(differing), f"{scenario}: new tokens {differing.tolist()} differ"


def assert_scenario_took_place(found: Replay, scenario: Scenario) -> None:
    assert took_place(found, scenario), scenario
    if scenario.prefix is Prefix.WARM and not scenario.is_preempted:
        assert found.num_cached_tokens == len(PROMPT) - 1
        assert found.num_computed_tokens == NUM_NEW


@pytest.mark.parametrize(("dtype", "quantize"), FORMATS)
def test_no_circumstance_changes_a_bit(checkpoint: Checkpoint, dtype: DType, quantize: Quantize) -> None:
    expected = replay(make_executor(checkpoint, dtype, quantize), ORACLE, PROMPT, NUM_NEW)
    for threads in (1, 2):
        executor = make_executor(checkpoint, dtype, quantize, threads)
        for scenario in grid():
            found = replay(executor, scenario, PROMPT, NUM_NEW)
            assert_same_bits(found, expected, scenario)
            assert_scenario_took_place(found, scenario)


@pytest.mark.parametrize("isa", available_isas()[:-1])
@pytest.mark.parametrize(("dtype", "quantize"), FORMATS)
def test_every_instruction_set_keeps_the_promise(
    checkpoint: Checkpoint, dtype: DType, quantize: Quantize, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUIRE_ISA", isa)
    executor = make_executor(checkpoint, dtype, quantize, threads=2)
    assert isa in executor.name
    expected = replay(executor, ORACLE, PROMPT, NUM_NEW)
    for scenario in grid(chunks=(7,)):
        assert_same_bits(replay(executor, scenario, PROMPT, NUM_NEW), expected, scenario)


@pytest.fixture(scope="module", params=["gguf-32", "gguf-256", "groups"])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Weights held as they are stored: matrices, also those that are multiplied together, take turns in the formats."""
    directory = tmp_path_factory.mktemp("stored")
    found = load_checkpoint(quantized_file(directory, *KINDS.get(request.param, ("Q8_0",))))
    return replace(found, weights=group_weights(found.spec, GROUP_FORMATS)) if request.param == "groups" else found


def stored_executor(checkpoint: Checkpoint, threads: int) -> Executor:
    options = ExecutorOptions(
        layout=kv_layout(checkpoint.spec, 32, KVFormat.FLOAT32),
        num_blocks=blocks_needed(len(PROMPT) + NUM_NEW, 32),
        dtype=DType.BFLOAT16,
        weights=WeightFormat.STORED,
        threads=threads,
    )
    return NativeExecutor(checkpoint.spec, checkpoint.weights, options)


@pytest.mark.parametrize("isa", available_isas())
def test_every_group_format_keeps_the_promise(stored: Checkpoint, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIRE_ISA", isa)
    prompt = [token % stored.spec.vocab_size for token in PROMPT]
    expected = replay(stored_executor(stored, 1), ORACLE, prompt, NUM_NEW)
    executor = stored_executor(stored, 2)
    for scenario in grid(chunks=(7,)):
        assert_same_bits(replay(executor, scenario, prompt, NUM_NEW), expected, scenario)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 64, 65])
def test_prompts_around_a_block_border_keep_the_promise(checkpoint: Checkpoint, length: int) -> None:
    executor = make_executor(checkpoint)
    expected = replay(executor, ORACLE, PROMPT[:length], NUM_NEW)
    for scenario in (Scenario(chunk=1), Scenario(chunk=7), Scenario(prefix=Prefix.WARM)):
        assert_same_bits(replay(executor, scenario, PROMPT[:length], NUM_NEW), expected, scenario)


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize(("dtype", "quantize"), FORMATS)
def test_prefetch_changes_no_bit(
    checkpoint: Checkpoint, dtype: DType, quantize: Quantize, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUIRE_ISA", isa)
    answers = []
    for pattern in Prefetch:
        monkeypatch.setenv("QUIRE_PREFETCH", pattern.value)
        executor = make_executor(checkpoint, dtype, quantize, threads=2)
        assert isinstance(executor, NativeExecutor)
        assert executor.prefetch.pattern is pattern
        answers.append(replay(executor, Scenario(chunk=7), PROMPT, NUM_NEW).logits.tobytes())
    assert len(answers) == 5
    assert len(set(answers)) == 1


def test_block_size_changes_no_bit(checkpoint: Checkpoint) -> None:
    expected = replay(make_executor(checkpoint), ORACLE, PROMPT, NUM_NEW)
    for block_size in (64, 128):
        executor = make_executor(checkpoint, block_size=block_size)
        assert_same_bits(replay(executor, Scenario(chunk=7), PROMPT, NUM_NEW), expected, Scenario(chunk=7))


@pytest.mark.parametrize("name", ["long-llama", "long-gemma3"])
def test_contexts_of_several_attention_splits_keep_the_promise(name: str) -> None:
    """A split is 512 keys: 1100 tokens need three, a window of 700 tokens starts in the middle of one."""
    long_checkpoint = make_checkpoint(name)
    prompt = [int(token) for token in np.random.default_rng(1).integers(0, VOCAB, 1100)]
    executor = make_executor(long_checkpoint, threads=2, num_tokens=len(prompt) + 3)
    expected = replay(executor, ORACLE, prompt, 3)
    for scenario in (Scenario(chunk=7), Scenario(chunk=400), Scenario(chunk=64, prefix=Prefix.WARM)):
        assert_same_bits(replay(executor, scenario, prompt, 3), expected, scenario)
    reference = ReferenceExecutor(
        long_checkpoint.spec, long_checkpoint.weights, ExecutorOptions(layout=executor.layout, num_blocks=40, dtype=DType.FLOAT32)
    )
    exact = replay(reference, Scenario(), prompt, 1).logits[0]
    assert np.abs(expected.logits[0] - exact).max() <= 1e-4 * np.abs(exact).max()


def test_the_floating_point_mode_of_the_caller_changes_no_bit(checkpoint: Checkpoint) -> None:
    """Values around 1e-38 vanish where denormals are flushed; torch switches that for the calling thread."""
    torch = pytest.importorskip("torch")
    tiny = replace(checkpoint, weights=with_tiny_values(checkpoint.weights))
    executor = make_executor(tiny, threads=2)
    expected = replay(executor, ORACLE, PROMPT, NUM_NEW)
    torch.set_flush_denormal(True)
    try:
        found = [replay(executor, Scenario(chunk=chunk), PROMPT, NUM_NEW) for chunk in (7, None)]
        fresh = replay(make_executor(tiny, threads=2), Scenario(), PROMPT, NUM_NEW)
    finally:
        torch.set_flush_denormal(False)
    for each in (*found, fresh):
        assert_same_bits(each, expected, Scenario())


def with_tiny_values(weights: Weights) -> Weights:
    """Returns weights whose values in attention are denormal and whose output projection makes them count again."""
    scaled = {
        name: SourceTensor(dtype=SourceDType.FLOAT32, bits=(weights[name].to_float32() * np.float32(factor)))
        for name, factor in _value_scales(weights)
    }
    return Weights({**dict(weights), **scaled}, weights.fingerprint)


def _value_scales(weights: Weights) -> list[tuple[str, float]]:
    values = [(name, 1e-38) for name in weights if name.endswith(("attn.v.weight", "attn.v.bias"))]
    return values + [(name, 1e37) for name in weights if name.endswith("attn.out.weight")]


@pytest.fixture(scope="module")
def windowed() -> Checkpoint:
    return make_checkpoint("gemma3-windows")


@pytest.mark.parametrize("dtype", list(DType), ids=lambda dtype: dtype.value)
def test_sliding_windows_keep_the_promise(windowed: Checkpoint, dtype: DType) -> None:
    executor = make_executor(windowed, dtype)
    expected = replay(executor, ORACLE, PROMPT, NUM_NEW)
    for scenario in grid(chunks=(7, None)):
        assert_same_bits(replay(executor, scenario, PROMPT, NUM_NEW), expected, scenario)


@pytest.mark.parametrize("dtype", list(DType), ids=lambda dtype: dtype.value)
def test_what_lies_in_other_slots_is_never_read(checkpoint: Checkpoint, dtype: DType) -> None:
    """Blocks that held NaN and infinity for another request give the same bits as fresh ones."""
    poisoned_token = VOCAB - 1
    prompt = [token for token in PROMPT if token != poisoned_token][:70]
    spoiled = replace(checkpoint, weights=with_poisoned_row(checkpoint.weights, poisoned_token))
    expected = replay(make_executor(spoiled, dtype), ORACLE, prompt, 3)
    executor = make_executor(spoiled, dtype)
    assert np.isnan(fill_every_slot(executor, poisoned_token)).any()
    for scenario in (Scenario(chunk=1), Scenario(chunk=7), Scenario()):
        assert_same_bits(replay(executor, scenario, prompt, 3), expected, scenario)


def with_poisoned_row(weights: Weights, token_id: int) -> Weights:
    """Returns weights whose embedding of one token is not a number; an untied head keeps its own rows."""
    table = weights["embed.weight"].to_float32().copy()
    table[token_id] = np.nan
    head = weights.get("head.weight", weights["embed.weight"])
    poisoned = SourceTensor(dtype=SourceDType.FLOAT32, bits=table)
    return Weights({**dict(weights), "embed.weight": poisoned, "head.weight": head}, weights.fingerprint)


def fill_every_slot(executor: Executor, token_id: int) -> Float32Array:
    """Writes K/V of one token into every slot of the executor; returns the last keys."""
    size = executor.layout.block_size
    for block in range(executor.num_blocks):
        slots = np.arange(block * size, (block + 1) * size, dtype=np.int32)
        executor.run(
            StepBatch(
                token_ids=np.full(size, token_id, np.int32),
                positions=np.arange(size, dtype=np.int32),
                query_start=np.array([0, size], np.int32),
                context_lens=np.array([size], np.int32),
                block_tables=np.array([[block]], np.int32),
                slot_mapping=slots,
                sample_rows=np.empty(0, np.int32),
            )
        )
    return executor.read_kv(0, slots)[0]


def test_the_grid_covers_what_the_promise_names() -> None:
    covered = list(grid())
    assert {scenario.chunk for scenario in covered} == {1, 7, 64, None}
    assert {scenario.prefix for scenario in covered} == set(Prefix)
    assert {scenario.num_neighbors for scenario in covered} == {0, 5}
    assert {scenario.is_preempted for scenario in covered} == {False, True}
    assert len(set(covered)) == len(covered) == 49
