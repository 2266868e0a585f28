"""Configuration: defaults that work, and a typed error for every value that cannot."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.config import KERNEL_TILE_TOKENS, CacheConfig, EngineConfig, SchedulerConfig
from quire.environment import MAX_THREADS
from quire.errors import ConfigError
from quire.values import shown

CONFIGS = (CacheConfig, SchedulerConfig, EngineConfig)
NOT_POSITIVE = [0, -1, -(2**70), 1.5, 32.0, float("nan"), float("inf"), True, False, "32", [32], (), b"1", object()]
REQUIRED = [
    (CacheConfig, "block_size"),
    (SchedulerConfig, "max_num_batched_tokens"),
    (SchedulerConfig, "max_num_seqs"),
    (SchedulerConfig, "max_queued_requests"),
]
AUTOMATIC = [(CacheConfig, "memory_bytes"), (EngineConfig, "max_context"), (EngineConfig, "threads")]


@pytest.mark.parametrize("kind", CONFIGS)
def test_defaults_are_valid_and_frozen(kind: type[Any]) -> None:
    config = kind()
    field = dataclasses.fields(config)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, field, None)


@pytest.mark.parametrize(("kind", "name"), REQUIRED + AUTOMATIC)
@pytest.mark.parametrize("value", NOT_POSITIVE, ids=lambda value: repr(value)[:12])
def test_counts_must_be_positive_integers(kind: type[Any], name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name) as caught:
        kind(**{name: value})
    assert caught.value.given == shown(value)
    assert name in caught.value.next_step


@pytest.mark.parametrize(("kind", "name"), REQUIRED + AUTOMATIC)
@pytest.mark.parametrize("value", [2**61, 10**6000], ids=["large", "huge"])
def test_counts_beyond_any_machine_are_refused(kind: type[Any], name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"{name} is too large \(given: .*; limit: \d+\)\. Pass {name} <= \d+"):
        kind(**{name: value})


@pytest.mark.parametrize(("kind", "name"), AUTOMATIC)
def test_none_means_automatic(kind: type[Any], name: str) -> None:
    assert getattr(kind(**{name: None}), name) is None


@pytest.mark.parametrize(("kind", "name"), REQUIRED)
def test_none_is_no_value_where_nothing_is_automatic(kind: type[Any], name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        kind(**{name: None})


@pytest.mark.parametrize(("kind", "name"), REQUIRED + AUTOMATIC)
def test_numpy_integers_are_counts(kind: type[Any], name: str) -> None:
    config = kind(**{name: np.int64(64)})
    assert type(getattr(config, name)) is int
    assert config == kind(**{name: 64})


KINDS = [
    (CacheConfig, "mode"),
    (CacheConfig, "prefix_cache"),
    (CacheConfig, "format"),
    (EngineConfig, "cache"),
    (EngineConfig, "scheduler"),
    (EngineConfig, "dtype"),
    (EngineConfig, "quantize"),
    (EngineConfig, "executor"),
    (EngineConfig, "packed_cache"),
]


@pytest.mark.parametrize(("kind", "name"), KINDS)
@pytest.mark.parametrize("value", [5, "paged", b"x", [], object(), np.array(1)], ids=lambda value: repr(value)[:12])
def test_values_of_another_kind_are_refused(kind: type[Any], name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name) as caught:
        kind(**{name: value})
    assert caught.value.given == shown(value)


@given(block_size=st.integers(1, 4096))
def test_a_block_is_a_whole_number_of_kernel_tiles(block_size: int) -> None:
    if block_size % KERNEL_TILE_TOKENS == 0:
        assert CacheConfig(block_size=block_size).block_size == block_size
    else:
        with pytest.raises(ConfigError, match="kernel tile"):
            CacheConfig(block_size=block_size)


@pytest.mark.parametrize("kind", CONFIGS)
def test_unknown_options_are_refused(kind: type[Any]) -> None:
    with pytest.raises(TypeError, match="gpu_memory_utilization"):
        kind(gpu_memory_utilization=0.9)


@pytest.mark.parametrize("kind", CONFIGS)
def test_options_are_given_by_name(kind: type[Any]) -> None:
    with pytest.raises(TypeError):
        kind(32)


def test_equal_configurations_are_equal_and_may_be_keys() -> None:
    assert EngineConfig() == EngineConfig()
    assert len({EngineConfig(), EngineConfig(), EngineConfig(threads=2)}) == 2


def test_more_threads_than_a_pool_can_start_are_refused() -> None:
    with pytest.raises(ConfigError, match="threads") as caught:
        EngineConfig(threads=MAX_THREADS + 1)
    assert caught.value.limit == MAX_THREADS
    assert EngineConfig(threads=MAX_THREADS).threads == MAX_THREADS
