"""The loop written by hand with `load_model` and the engine's `generate` are the same model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import quire
from quire import LLM, SamplingParams
from quire.engine.resolve import is_native_built
from quire.errors import ConfigError

LOAD_OPTIONS = "block_size, dtype, executor, kv_format, kv_memory, max_context, max_num_seqs, on_progress, packed_cache, threads"
EXECUTORS = ["reference", *(["native"] if is_native_built() else [])]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_loop_by_hand_equals_generate(tiny_model: Path, executor: str) -> None:
    with LLM(tiny_model, executor=executor, dtype="float32", kv_memory="16MiB") as llm:
        prompt = llm.tokenizer.encode("the quick brown fox jumps over it")
        (output,) = llm.generate(prompt, SamplingParams(temperature=0, max_tokens=40, ignore_eos=True))
    model = quire.load_model(tiny_model, executor=executor, kv_memory="16MiB")
    logits, past_kvs = model(np.array([prompt]))
    tokens = [int(logits[0, -1].argmax())]
    while len(tokens) < 40:
        logits, past_kvs = model(np.array([tokens[-1:]]), past_kvs=past_kvs, use_cache=True)
        tokens.append(int(logits[0, -1].argmax()))
    assert tuple(tokens) == output.outputs[0].token_ids


@pytest.mark.skipif(not is_native_built(), reason="the native core is not compiled here")
def test_native_logits_do_not_depend_on_the_cache_by_one_bit(tiny_model: Path) -> None:
    model = quire.load_model(tiny_model, kv_memory="16MiB")
    tokens = np.arange(2 * 90).reshape(2, 90) % model.spec.vocab_size
    whole, _ = model(tokens, use_cache=False)
    past_kvs = None
    pieces = []
    for piece in np.split(tokens, [1, 8, 33, 70], axis=1):
        logits, past_kvs = model(piece, past_kvs=past_kvs)
        pieces.append(logits)
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)


@pytest.mark.skipif(not is_native_built(), reason="the native core is not compiled here")
def test_native_engine_serves_seeded_requests_equally_together_and_alone(tiny_model: Path) -> None:
    params = [SamplingParams(temperature=1.0, seed=seed, max_tokens=30, n=2) for seed in range(4)]
    prompts = ["the sea", "the mountains and the rivers and everything that grows there", "x", "the sea"]
    with LLM(tiny_model, executor="native", kv_memory="16MiB", max_num_batched_tokens=16) as llm:
        together = llm.generate(prompts, params)
    with LLM(tiny_model, executor="native", kv_memory="16MiB", prefix_cache="off") as llm:
        alone = [llm.generate(prompt, each)[0] for prompt, each in zip(prompts, params, strict=True)]
    assert [output.outputs for output in together] == [output.outputs for output in alone]


@pytest.mark.parametrize("name", ["max_num_batched_tokens", "kv_cache", "prefix_cache", "quantize", "kv_memroy"])
def test_options_that_would_do_nothing_are_refused(tiny_model: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"unknown option '{name}'.*{LOAD_OPTIONS}"):
        quire.load_model(tiny_model, executor="reference", **{name: "off"})  # type: ignore[typeddict-item]
