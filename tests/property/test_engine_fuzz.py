"""A sample of `scripts/fuzz_engine.py`: every KV format and every model under random load, compared bit by bit."""

from __future__ import annotations

import pytest

from quire.executors.native import available_isas
from support.engine_fuzz import FORMATS, World, fuzz
from support.fuzz_models import SHAPES

pytestmark = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")

NUM_WORLDS = len(SHAPES) * len(FORMATS)


def test_every_answer_under_random_load_is_the_answer_alone() -> None:
    tally = fuzz(range(NUM_WORLDS), num_requests=10)
    assert tally["requests"] == 10 * NUM_WORLDS
    assert tally["compared whole"] > tally["requests"] // 2
    assert min(tally[name] for name in ("preemptions", "faults", "cached tokens", "ended by abort", "ended by error")) > 5


@pytest.mark.parametrize("kv_format", FORMATS, ids=lambda each: each.value)
def test_every_long_answer_under_random_load_is_the_answer_alone(kv_format: object) -> None:
    """Contexts of more than two splits of attention."""
    seed = next(seed for seed in range(NUM_WORLDS) if World.of(seed).kv_format is kv_format)
    tally = fuzz([seed + 5], num_requests=8, is_long=True)
    assert tally["compared whole"] >= 1


def test_the_worlds_of_a_run_have_all_models_in_all_formats() -> None:
    worlds = [World.of(seed) for seed in range(NUM_WORLDS)]
    assert len({(world.model, world.kv_format) for world in worlds}) == NUM_WORLDS
