"""Memory is counted by one formula and compared with the machine before anything is allocated; machines here are made up."""

from __future__ import annotations

import logging
import re
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire import LLM, load_model
from quire.config import DEFAULT_KV_MEMORY_BYTES, DType, EngineConfig, ExecutorKind, Quantize, WeightFormat
from quire.engine import loading
from quire.engine.loading import build_executor, open_checkpoint
from quire.engine.options import engine_config
from quire.engine.resolve import capacity_of, pool_blocks, resolve, settled, step_rows
from quire.environment import Memory
from quire.errors import ConfigError
from quire.executors.native import NativeExecutor
from quire.executors.options import ExecutorOptions
from quire.executors.reference_math import Scoring, attention
from quire.models.spec import ModelSpec
from quire.models.weights import SourceDType, SourceTensor, Weights
from quire.units import GIB, MIB
from support.configs import spec_of, with_ffn
from support.fake_engine import FAKE_SPEC
from support.weights import random_weights

LARGE: ModelSpec = replace(  # 0.8 billion weights, 64 KiB of K/V a token in bfloat16
    FAKE_SPEC,
    hidden_size=2048,
    num_heads=16,
    num_kv_heads=8,
    head_dim=128,
    vocab_size=32_000,
    max_context=32_768,
    layers=with_ffn(FAKE_SPEC, size=8192).layers * 16,
)
WEIGHTS = Weights(
    {"embed.weight": SourceTensor(dtype=SourceDType.BFLOAT16, bits=random_weights(FAKE_SPEC)["embed.weight"].bits)}, b""
)


def machine(gib: float, available: float | None = None, swap: float = 0) -> Memory:
    sizes = (int(size * GIB) for size in (gib, gib if available is None else available, swap))
    return Memory(**dict(zip(("total_bytes", "available_bytes", "swap_bytes"), sizes, strict=True)))


def resolved(memory: Memory | None, spec: ModelSpec = LARGE, **options: Any) -> EngineConfig:
    return resolve(engine_config({"executor": "native", **options}), spec, WEIGHTS, memory)  # type: ignore[typeddict-item]


def needs(config: EngineConfig, spec: ModelSpec = LARGE) -> int:
    return capacity_of(config, spec, WEIGHTS).needs(pool_blocks(config, spec), step_rows(config, spec)).total


@pytest.mark.parametrize(
    ("options", "given", "advice"),
    [
        ({"kv_memory": "1000GiB"}, "1000.0 GiB", "kv_memory"),
        ({"kv_memory": "200GiB"}, "200.0 GiB", "kv_memory"),
        ({"max_num_seqs": 1_000_000}, "1000000, which takes at least 1954", "max_num_seqs"),
        ({"max_num_batched_tokens": 1_000_000_000}, "1000000000, which takes at least", "max_num_batched_tokens"),
    ],
)
def test_what_no_use_could_make_possible_is_refused(options: dict[str, Any], given: str, advice: str) -> None:
    with pytest.raises(ConfigError, match=f"{advice} asks for more memory than this machine has") as caught:
        resolved(machine(23), **options)
    assert str(caught.value.given).startswith(given)
    assert caught.value.limit == "23.0 GiB"
    assert_advice_works(caught.value, machine(23), options)


@pytest.mark.parametrize(
    ("memory", "options"),
    [
        (machine(23, available=8), {"kv_memory": "16GiB"}),
        (machine(8), {"kv_memory": "8GiB"}),
        (machine(8), {"max_num_batched_tokens": 50_000, "kv_memory": "5GiB"}),
        (machine(2), {"dtype": "float32", "kv_memory": "4MiB"}),
        (machine(1), {"dtype": "bfloat16", "kv_memory": "4MiB"}),
        (machine(2), {"dtype": "float32", "executor": "reference"}),
        (machine(1.4), {}),
    ],
)
def test_what_does_not_fit_now_is_refused_with_what_would(memory: Memory, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="the model and its KV cache need more memory than there is") as caught:
        resolved(memory, **options)
    for part in ("weights", "KV cache", "its bookkeeping", "a step", "GiB available"):
        assert part in str(caught.value)
    assert_advice_works(caught.value, memory, options)


def assert_advice_works(error: ConfigError, memory: Memory, options: dict[str, Any]) -> None:
    """Follows every option that the error names, and finds that the model fits then."""
    advised: dict[str, Any] = dict(re.findall(r"(\w+)=(\w+)", error.next_step))
    assert advised
    counts = {name: int(value) for name, value in advised.items() if value.isdigit() and name != "kv_memory"}
    kept = {name: value for name, value in options.items() if name != "kv_memory" or "a smaller kv_memory" not in error.next_step}
    config = resolved(memory, **(kept | advised | counts))
    assert needs(config) <= memory.reachable_bytes


def test_nothing_fits_a_machine_that_is_too_small() -> None:
    with pytest.raises(ConfigError, match="Choose a smaller model, or free memory"):
        resolved(machine(0.25))


@given(
    gib=st.floats(0.1, 64),
    share=st.floats(0.05, 1),
    quantize=st.sampled_from(Quantize),
    max_context=st.one_of(st.none(), st.integers(2, LARGE.max_context)),
    executor=st.sampled_from(["native", "reference"]),
)
def test_what_is_accepted_fits(gib: float, share: float, quantize: Quantize, max_context: int | None, executor: str) -> None:
    memory = machine(gib, available=gib * share)
    try:
        config = resolved(memory, quantize=quantize.value, max_context=max_context, executor=executor)
    except ConfigError:
        return
    assert needs(config) <= memory.reachable_bytes
    assert settled(config.cache.memory_bytes, "kv_memory") <= DEFAULT_KV_MEMORY_BYTES
    assert max_context in (None, config.max_context)


def test_an_unknown_machine_refuses_nothing() -> None:
    config = resolved(None, kv_memory="1000GiB", max_num_seqs=1_000_000)
    assert config.cache.memory_bytes == 1000 * GIB
    assert resolved(None).cache.memory_bytes == DEFAULT_KV_MEMORY_BYTES


def test_swap_counts_as_memory_that_can_be_had() -> None:
    options = {"kv_memory": "3GiB"}
    with pytest.raises(ConfigError):
        resolved(machine(4), **options)
    assert resolved(machine(4, swap=4), **options).cache.memory_bytes == 3 * GIB


def test_a_cache_without_a_chosen_size_takes_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    assert resolved(machine(16)).cache.memory_bytes == DEFAULT_KV_MEMORY_BYTES
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        config = resolved(machine(16, available=2))
    assert 64 * MIB < settled(config.cache.memory_bytes, "kv_memory") < GIB
    assert "instead of 2.0 GiB because memory is short" in caplog.text
    caplog.clear()
    small = resolve(EngineConfig(executor=ExecutorKind.NATIVE), FAKE_SPEC, WEIGHTS, machine(0.5))
    assert settled(small.cache.memory_bytes, "kv_memory") < DEFAULT_KV_MEMORY_BYTES
    assert not caplog.records  # no request could use more


@pytest.mark.parametrize("family", ["llama", "gpt2", "olmo2"])
@pytest.mark.parametrize("quantize", Quantize)
@pytest.mark.parametrize("dtype", DType)
def test_weights_are_counted_as_the_executor_holds_them(family: str, dtype: DType, quantize: Quantize) -> None:
    spec = spec_of(family)
    weights = random_weights(spec)
    config = resolve(EngineConfig(executor=ExecutorKind.NATIVE, dtype=dtype, quantize=quantize), spec, weights)
    capacity = capacity_of(config, spec, weights)
    executor = NativeExecutor(
        spec, weights, ExecutorOptions(layout=capacity.layout, num_blocks=1, dtype=dtype, quantize=quantize)
    )
    tables = [tensor for name, tensor in weights.items() if tensor.bits.ndim == 1 or name == "position.weight"]
    held = executor.weight_bytes + sum(4 * tensor.bits.size for tensor in tables)
    assert capacity.weight_bytes == held


def test_nothing_is_allocated_for_what_does_not_fit(tiny_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "read_memory", lambda: machine(0.001))
    monkeypatch.setattr(loading, "build_executor", lambda *_: pytest.fail("an executor was built"))
    for load in (LLM, load_model):
        with pytest.raises(ConfigError, match="more memory than there is"):
            load(tiny_directory, executor="reference")


@pytest.fixture
def tiny_directory() -> Path:
    from quire.models.bundled import directory

    return directory()


def test_this_machine_holds_the_bundled_model() -> None:
    checkpoint, config = open_checkpoint(None, EngineConfig())
    executor = build_executor(checkpoint, config)
    assert executor.kv_bytes <= settled(config.cache.memory_bytes, "kv_memory") + 4096


@pytest.mark.parametrize("softcap", [None, 30.0])
def test_attention_scores_of_the_reference_executor_stay_within_what_is_counted(softcap: float | None) -> None:
    spec, num_queries, num_keys = replace(LARGE, num_heads=8, num_kv_heads=4, head_dim=2, max_context=640), 256, 640
    q, kv = np.zeros((num_queries, 8, 2), np.float32), np.zeros((num_keys, 4, 2), np.float32)
    scoring = Scoring(scale=1.0, softcap=softcap, window=None)
    tracemalloc.start()
    try:
        attention(q, kv, kv, scoring)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    config = engine_config({"executor": "reference", "dtype": "float32", "kv_format": "float32"})
    config = replace(config, weight_format=WeightFormat.FLOAT32)
    with_scores = capacity_of(config, spec, WEIGHTS).needs(num_keys // 32, num_queries).step
    without = capacity_of(replace(config, executor=ExecutorKind.NATIVE), spec, WEIGHTS).needs(num_keys // 32, num_queries).step
    assert 0.5 * peak < with_scores - without
    assert peak < (with_scores - without) * 1.2
