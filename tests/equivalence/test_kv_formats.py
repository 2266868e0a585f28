"""Promise 1 in every KV format: hits to the token, neighbors, full pools and the key-bias rule change no bit within a format."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from quire.config import KVFormat
from quire.executors.native import NativeExecutor, available_isas
from quire.executors.protocol import Executor
from quire.verify.replay import NUM_NEIGHBORS, ORACLE, Prefix, Scenario, blocks_needed, grid, replay, took_place
from support.fuzz_models import model_of

pytestmark = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")

FORMATS = tuple(each for each in KVFormat if each.is_quantized)  # test_one_answer.py has the others
NUM_NEW = 8
MODELS = ("llama group 7 of 24", "gemma3 windows 37", "qwen2 key biases")
PLACES = [("qwen3 group 3 of 64", isa) for isa in available_isas()] + [
    (model, isa) for model in MODELS for isa in available_isas()[-1:]
]
"""One model on every instruction set, the others on the fastest."""
PROMPT = [int(token) for token in np.random.default_rng(3).integers(0, 251, 93)]
LONG = [int(token) for token in np.random.default_rng(4).integers(0, 251, 1100)]


def executor_of(model: str, kv_format: KVFormat, threads: int = 1, *, block_size: int = 32, num_tokens: int = 101) -> Executor:
    found = model_of(model)
    options = found.options(
        kv_format,
        block_size=block_size,
        num_blocks=blocks_needed(num_tokens, block_size),
        num_own_tiles=NUM_NEIGHBORS + 2 if kv_format.has_own_tiles else 0,
        threads=threads,
    )
    return NativeExecutor(found.spec, found.weights, options)


def require_same(executor: Executor, scenario: Scenario, prompt: list[int], expected: bytes, num_new: int = NUM_NEW) -> None:
    found = replay(executor, scenario, prompt, num_new)
    assert found.logits.tobytes() == expected, scenario
    assert took_place(found, scenario), scenario


@pytest.mark.parametrize(("model", "isa"), PLACES)
@pytest.mark.parametrize("kv_format", FORMATS, ids=lambda each: each.value)
def test_no_circumstance_changes_a_bit(model: str, kv_format: KVFormat, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIRE_ISA", isa)
    expected = replay(executor_of(model, kv_format), ORACLE, PROMPT, NUM_NEW).logits.tobytes()
    executor = executor_of(model, kv_format, threads=2)
    for scenario in grid(chunks=(7,)):
        require_same(executor, scenario, PROMPT, expected)


@pytest.mark.parametrize("kv_format", FORMATS, ids=lambda each: each.value)
@pytest.mark.parametrize("model", ["qwen3 group 3 of 64", "gemma3 windows 600"])
def test_contexts_beyond_two_splits_keep_the_promise(model: str, kv_format: KVFormat) -> None:
    """1100 tokens are three splits; neighbors that are warm read the same ones."""
    executor = executor_of(model, kv_format, threads=2, num_tokens=len(LONG) + 3)
    expected = replay(executor, ORACLE, LONG, 3).logits.tobytes()
    for chunk, prefix in product((50, 400), (Prefix.COLD, Prefix.WARM)):
        require_same(executor, Scenario(chunk=chunk, prefix=prefix, num_neighbors=2), LONG, expected, 3)
