"""A plan is what loading would do: the same blocks, the same memory, the same errors, from a config.json alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.bench.forecast import times_of, work_of
from quire.bench.machine_peak import MachinePeak
from quire.bench.saved_model import save_random_model
from quire.config import KVFormat, WeightFormat
from quire.engine.loading import load_executor
from quire.engine.options import engine_config
from quire.engine.plan import AskedLoad, MemoryPlan, longest_context, plan_memory
from quire.engine.resolve import resolve
from quire.environment import Memory
from quire.errors import ConfigError
from quire.executors.native import NativeExecutor, available_isas
from quire.executors.protocol import kv_layout
from quire.models.described import describe
from quire.models.weights import SourceDType
from quire.units import GIB, MIB
from support.configs import CONFIGS, spec_of
from support.published import PUBLISHED

LARGE = Memory(total_bytes=512 * GIB, available_bytes=512 * GIB)


@pytest.fixture
def large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quire.engine.plan.read_memory", lambda: LARGE)


def plan_of(path: Path, context: int | None = None, concurrency: int = 1, **options: Any) -> MemoryPlan:
    asked = AskedLoad(context=context, concurrency=concurrency)
    return plan_memory(engine_config(options), describe(path).checkpoint, asked)  # type: ignore[arg-type]


def published(tmp_path: Path, name: str) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(next(each.fields for each in PUBLISHED if each.name == name)))
    return path


@pytest.mark.usefixtures("large_machine")
def test_llama_2_7b_takes_what_the_notes_say(tmp_path: Path) -> None:
    path = published(tmp_path, "Llama-2-7b")
    plan = plan_of(path, context=1000)
    half = next(each for each in plan.kv if each.format is KVFormat.BFLOAT16)
    assert half.bytes_per_token == MIB // 2
    assert half.bytes_per_token * 1000 == 500 * MIB
    assert half.seen_bytes == 500 * MIB
    work = work_of(plan)
    assert work.generated_token == pytest.approx(14e9, rel=0.03)
    assert 13e9 < work.prompt_token < work.generated_token
    assert plan.weights[WeightFormat.BFLOAT16] == pytest.approx(2 * 6_738_415_616, rel=0.001)
    assert plan.weights[WeightFormat.FLOAT32] == pytest.approx(4 * 6_738_415_616, rel=0.001)
    assert plan.config.weight_format is WeightFormat.FLOAT32  # what holds every float16 exactly


@pytest.mark.usefixtures("large_machine")
@pytest.mark.parametrize("published_as", PUBLISHED, ids=lambda each: each.name)
def test_every_published_config_can_be_planned(tmp_path: Path, published_as: Any) -> None:
    plan = plan_of(published(tmp_path, published_as.name))
    assert plan.problem is None
    sizes = [plan.weights[each] for each in (WeightFormat.FLOAT32, WeightFormat.BFLOAT16, WeightFormat.INT8, WeightFormat.INT4)]
    assert sizes == sorted(sizes, reverse=True)
    assert [each.bytes_per_token for each in plan.kv] == sorted((each.bytes_per_token for each in plan.kv), reverse=True)
    assert plan.needs.total > plan.capacity.weight_bytes


@pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")
@pytest.mark.parametrize("options", [{}, {"quantize": "int4"}, {"max_num_seqs": 2}, {"kv_format": "float32", "max_context": 100}])
def test_a_plan_from_the_config_alone_is_what_loading_does(tmp_path: Path, options: dict[str, Any]) -> None:
    config = tmp_path / "shape.json"
    config.write_text(json.dumps(CONFIGS["qwen3"]))
    model = tmp_path / "model"
    save_random_model(config, model)
    plan = plan_of(config, kv_memory="8MiB", **options)
    there = plan_of(model, kv_memory="8MiB", **options)
    assert (plan.needs, plan.config) == (there.needs, there.config)
    checkpoint, executor, resolved = load_executor(model, engine_config({"kv_memory": "8MiB", **options}))
    assert isinstance(executor, NativeExecutor)
    assert resolved == plan.config
    assert executor.layout == plan.capacity.layout
    assert executor.num_blocks * executor.layout.bytes_per_block == plan.needs.kv_cache
    vectors = sum(4 * tensor.bits.size for tensor in checkpoint.weights.values() if tensor.bits.ndim == 1)
    assert executor.weight_bytes + vectors == plan.needs.weights


def test_hollow_weights_take_no_memory_and_have_the_format_of_the_config(tmp_path: Path) -> None:
    for field, written, expected in (
        ("torch_dtype", "float16", SourceDType.FLOAT16),
        ("dtype", "torch.bfloat16", SourceDType.BFLOAT16),
        ("torch_dtype", None, SourceDType.FLOAT32),
        ("dtype", "float8_e4m3fn", SourceDType.FLOAT32),
    ):
        fields = {name: value for name, value in CONFIGS["llama"].items() if name != "torch_dtype"}
        (tmp_path / "config.json").write_text(json.dumps(fields | {field: written}))
        described = describe(tmp_path)
        assert described.checkpoint.weights.dtype is expected
        assert described.missing == "model.safetensors"
        assert all(set(tensor.bits.strides) <= {0} for tensor in described.checkpoint.weights.values())


def test_a_config_beside_its_weights_is_the_model(tmp_path: Path) -> None:
    config = tmp_path / "shape.json"
    config.write_text(json.dumps(CONFIGS["llama"]))
    save_random_model(config, tmp_path / "model")
    assert describe(tmp_path / "model" / "config.json").missing is None
    assert describe(config).missing == "model.safetensors"


def test_a_quantized_config_without_weights_says_what_is_unknown(tmp_path: Path) -> None:
    quantization = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["llama"] | {"quantization_config": quantization}))
    described = describe(tmp_path)
    assert described.unread_storage is not None
    assert described.checkpoint.weights.dtype is SourceDType.BFLOAT16


def test_what_does_not_fit_here_is_planned_and_says_what_loading_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Memory(total_bytes=4 * GIB, available_bytes=4 * GIB)
    monkeypatch.setattr("quire.engine.plan.read_memory", lambda: small)
    path = published(tmp_path, "Llama-2-7b")
    plan = plan_of(path)
    checkpoint = describe(path).checkpoint
    with pytest.raises(ConfigError) as caught:
        resolve(engine_config({}), checkpoint.spec, checkpoint.weights, small)
    assert str(plan.problem) == str(caught.value)
    assert plan.needs.total > small.reachable_bytes


def test_options_that_fit_no_machine_are_refused(tmp_path: Path) -> None:
    path = published(tmp_path, "Llama-2-7b")
    layout = kv_layout(describe(path).checkpoint.spec, 32, KVFormat.BFLOAT16)
    with pytest.raises(ConfigError, match=str(layout.bytes_per_block)):
        plan_of(path, kv_format="bfloat16", kv_memory=layout.bytes_per_block - 1)
    with pytest.raises(ConfigError, match="limit: 4096"):
        plan_of(path, max_context=5000)
    with pytest.raises(ConfigError, match="limit: 4096"):
        plan_of(path, context=5000)


@given(
    st.sampled_from(list(KVFormat)),
    st.integers(0, 64 * MIB),
    st.integers(1, 80),
    st.sampled_from([32, 64]),
    st.integers(33, 5000),
)
def test_the_longest_context_fits_and_one_block_more_does_not(
    kind: KVFormat, memory_bytes: int, concurrency: int, block_size: int, max_context: int
) -> None:
    layout = kv_layout(spec_of("qwen3"), block_size, kind)
    tokens = longest_context(layout, memory_bytes, concurrency, max_context)
    if tokens is None:
        assert concurrency * layout.bytes_for_tokens(1) > memory_bytes or layout.has_own_tiles
        return
    assert concurrency * layout.bytes_for_tokens(tokens) <= memory_bytes
    if tokens < max_context:
        assert concurrency * layout.bytes_for_tokens(tokens + block_size) > memory_bytes


def test_windows_are_held_whole_and_read_in_part(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["gemma3_text"]))
    plan = plan_of(tmp_path, context=320, concurrency=2)
    spec = plan.capacity.spec
    num_windowed = sum(layer.sliding_window == 32 for layer in spec.layers)
    for each in plan.kv:
        assert each.load_bytes == 2 * (10 * each.bytes_per_block + each.bytes_per_own_tile)
        assert each.seen_bytes == 2 * each.bytes_per_token * (num_windowed * 32 + (4 - num_windowed) * 320) // 4


def test_times_are_rooflines(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["llama"]))
    plan = plan_of(tmp_path, context=64)
    work = work_of(plan)
    slow_reads = times_of(plan, MachinePeak(bandwidth=1.0, flops=1e18))
    assert slow_reads.generated_token[KVFormat.FLOAT32] > slow_reads.generated_token[KVFormat.INT4] > 0
    slow_sums = times_of(plan, MachinePeak(bandwidth=1e18, flops=1.0))
    assert slow_sums.prompt == work.prompt == pytest.approx(64 * work.prompt_token)
    assert set(slow_sums.generated_token.values()) == {work.generated_token}
