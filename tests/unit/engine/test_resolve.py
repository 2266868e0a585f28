"""What "auto" becomes, and that memory is counted by one formula."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.config import CacheConfig, DType, EngineConfig, ExecutorKind, KVCacheMode, KVFormat, PrefixCache, SchedulerConfig
from quire.engine import resolve as resolving
from quire.engine.options import engine_config
from quire.engine.resolve import context_bound, kv_room, layout_of, pool_blocks, pool_bound, resolve, settled
from quire.errors import ConfigError
from quire.executors.kv_shape import kv_layout
from quire.models.weights import SourceDType, SourceTensor, Weights
from quire.sched.limits import ContextBound, PoolBound
from quire.units import GIB, MIB
from support.configs import spec_of
from support.fake_engine import FAKE_SPEC
from support.weights import random_weights

WEIGHTS = random_weights(FAKE_SPEC)
FORMATS = {SourceDType.FLOAT32: DType.FLOAT32, SourceDType.FLOAT16: DType.FLOAT32, SourceDType.BFLOAT16: DType.BFLOAT16}


@pytest.mark.parametrize(("source", "expected"), FORMATS.items())
def test_weights_keep_their_exact_format(source: SourceDType, expected: DType) -> None:
    weights = Weights({name: SourceTensor(dtype=source, bits=WEIGHTS[name].bits) for name in WEIGHTS}, b"")
    resolved = resolve(EngineConfig(), FAKE_SPEC, weights)
    assert (resolved.dtype, resolved.cache.format) == (expected, KVFormat(expected.value))
    chosen = resolve(EngineConfig(dtype=DType.BFLOAT16, cache=CacheConfig(format=KVFormat.FLOAT32)), FAKE_SPEC, weights)
    assert (chosen.dtype, chosen.cache.format) == (DType.BFLOAT16, KVFormat.FLOAT32)


def test_nothing_stays_auto_and_resolving_again_changes_nothing() -> None:
    resolved = resolve(EngineConfig(), FAKE_SPEC, WEIGHTS)
    assert None not in [getattr(resolved, name) for name in resolved.__dataclass_fields__ if name != "packed_cache"]
    assert resolve(resolved, FAKE_SPEC, WEIGHTS) == resolved
    with pytest.raises(ConfigError, match="still auto"):
        settled(EngineConfig().dtype, "dtype")


@pytest.mark.parametrize(("core", "expected"), [("quire.errors", ExecutorKind.NATIVE), ("quire.none", ExecutorKind.REFERENCE)])
def test_native_is_chosen_where_it_is_compiled(monkeypatch: pytest.MonkeyPatch, core: str, expected: ExecutorKind) -> None:
    monkeypatch.setattr(resolving, "NATIVE_CORE", core)
    assert resolve(EngineConfig(), FAKE_SPEC, WEIGHTS).executor is expected
    assert resolve(EngineConfig(executor=ExecutorKind.REFERENCE), FAKE_SPEC, WEIGHTS).executor is ExecutorKind.REFERENCE


@given(memory=st.integers(1, 4 * MIB), max_num_seqs=st.integers(1, 8), asked=st.one_of(st.none(), st.integers(2, 600)))
def test_pool_fits_its_memory_and_holds_the_context(memory: int, max_num_seqs: int, asked: int | None) -> None:
    config = EngineConfig(
        cache=CacheConfig(memory_bytes=memory), scheduler=SchedulerConfig(max_num_seqs=max_num_seqs), max_context=asked
    )
    per_token = 2 * 1 * 1 * 2 * 4
    room = memory // (32 * per_token) * 32
    if room == 0 or (asked or 0) > min(FAKE_SPEC.max_context, room):
        with pytest.raises(ConfigError):
            resolve(config, FAKE_SPEC, WEIGHTS)
        return
    resolved = resolve(config, FAKE_SPEC, WEIGHTS)
    num_blocks = pool_blocks(resolved, FAKE_SPEC)
    max_context = settled(resolved.max_context, "max_context")
    assert max_context == (asked or min(FAKE_SPEC.max_context, room))
    assert max_context <= num_blocks * 32
    assert num_blocks * layout_of(resolved, FAKE_SPEC).bytes_per_block <= memory
    assert num_blocks <= max_num_seqs * -(-max_context // 32)


@pytest.mark.parametrize(
    ("memory", "asked", "expected"),
    [
        (4 * MIB, None, ContextBound.MODEL),
        (4 * MIB, 512, ContextBound.MODEL),
        (4 * MIB, 64, ContextBound.MAX_CONTEXT),
        (64 * 16, None, ContextBound.KV_MEMORY),
    ],
)
def test_what_bounds_the_context_is_known(memory: int, asked: int | None, expected: ContextBound) -> None:
    config = resolve(EngineConfig(cache=CacheConfig(memory_bytes=memory), max_context=asked), FAKE_SPEC, WEIGHTS)
    assert context_bound(config, FAKE_SPEC, FAKE_SPEC.max_context) is expected


def test_what_bounds_the_pool_is_known() -> None:
    config = resolve(EngineConfig(scheduler=SchedulerConfig(max_num_seqs=2)), FAKE_SPEC, WEIGHTS)
    assert pool_bound(config, FAKE_SPEC) is PoolBound.MAX_NUM_SEQS
    small = replace(config, cache=replace(config.cache, memory_bytes=10 * 1024))
    assert pool_bound(small, FAKE_SPEC) is PoolBound.KV_MEMORY


def test_without_a_cache_one_context_is_enough() -> None:
    config = resolve(EngineConfig(), FAKE_SPEC, WEIGHTS)
    assert pool_blocks(config, FAKE_SPEC) == 64 * 16
    assert pool_blocks(replace(config, cache=replace(config.cache, mode=KVCacheMode.OFF)), FAKE_SPEC) == 16


def test_without_a_cache_there_is_no_prefix_cache_to_report() -> None:
    config = resolve(engine_config({"kv_cache": "off", "prefix_cache": "on"}), FAKE_SPEC, WEIGHTS)
    assert config.cache.prefix_cache is PrefixCache.OFF


def test_words_and_sizes_become_a_configuration() -> None:
    assert engine_config({}) == EngineConfig()
    config = engine_config(
        {"dtype": "bfloat16", "kv_memory": "3GiB", "kv_cache": "off", "executor": "reference", "max_context": 64}
    )
    assert (config.dtype, config.cache.memory_bytes, config.cache.mode) == (DType.BFLOAT16, 3 * GIB, KVCacheMode.OFF)
    assert (config.executor, config.max_context) == (ExecutorKind.REFERENCE, 64)


def kv_config(kv_format: KVFormat, executor: ExecutorKind, **changes: int) -> EngineConfig:
    return EngineConfig(cache=CacheConfig(format=kv_format, **changes), executor=executor)


@pytest.mark.parametrize("executor", ExecutorKind)
@pytest.mark.parametrize("kv_format", KVFormat)
def test_an_executor_without_a_kv_format_is_refused_by_name(executor: ExecutorKind, kv_format: KVFormat) -> None:
    spec = spec_of("llama", head_dim=64)
    if kv_format in executor.kv_formats:
        assert resolve(kv_config(kv_format, executor), spec, WEIGHTS).cache.format is kv_format
        return
    having = ", ".join(each.value for each in executor.kv_formats)
    with pytest.raises(ConfigError, match=rf"{executor.value} executor.*kv_format={kv_format.value}.*{having}"):
        resolve(kv_config(kv_format, executor), spec, WEIGHTS)


@pytest.mark.parametrize("kv_format", KVFormat)
def test_memory_without_room_for_a_block_names_the_bytes_that_suffice(kv_format: KVFormat) -> None:
    spec = spec_of("llama", head_dim=64)
    with pytest.raises(ConfigError, match=r"at least \d+ bytes for 32 tokens") as refused:
        resolve(kv_config(kv_format, ExecutorKind.REFERENCE, memory_bytes=1), spec, WEIGHTS)
    needed = int(str(refused.value).partition("at least ")[2].split()[0])
    with pytest.raises(ConfigError, match="at least"):
        resolve(kv_config(kv_format, ExecutorKind.REFERENCE, memory_bytes=needed - 1), spec, WEIGHTS)
    resolved = resolve(kv_config(kv_format, ExecutorKind.REFERENCE, memory_bytes=needed), spec, WEIGHTS)
    assert (pool_blocks(resolved, spec), kv_room(resolved, spec).num_own_tiles) == (1, int(kv_format.has_own_tiles))
    assert resolve(resolved, spec, WEIGHTS) == resolved


@given(memory=st.integers(1, 8 * MIB), max_num_seqs=st.integers(1, 40))
def test_as_many_requests_run_as_there_are_own_tiles(memory: int, max_num_seqs: int) -> None:
    spec = spec_of("llama", head_dim=64)
    scheduler = SchedulerConfig(max_num_seqs=max_num_seqs)
    config = replace(kv_config(KVFormat.INT4, ExecutorKind.REFERENCE, memory_bytes=memory), scheduler=scheduler)
    layout = kv_layout(spec, 32, KVFormat.INT4)
    if memory < layout.bytes_for_tokens(1):
        with pytest.raises(ConfigError, match="at least"):
            resolve(config, spec, WEIGHTS)
        return
    resolved = resolve(config, spec, WEIGHTS)
    room, num_blocks = kv_room(resolved, spec), pool_blocks(resolved, spec)
    assert num_blocks * layout.bytes_per_block + room.num_own_tiles * layout.bytes_per_own_tile <= memory
    assert num_blocks <= room.num_own_tiles * layout.blocks_for_tokens(settled(resolved.max_context, "max_context"))
    assert 1 <= room.num_own_tiles <= max_num_seqs
    if room.num_own_tiles < max_num_seqs:
        assert pool_bound(resolved, spec) is PoolBound.KV_MEMORY
