"""Every executor with every number format and every way to choose a token: it answers, or it is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from quire import LLM, SamplingParams
from quire.config import DType, ExecutorKind, KVCacheMode, KVFormat, Quantize
from quire.errors import ConfigError
from quire.request import FinishReason, RequestOutput

PROMPT = "the quick brown fox jumps over"
NUM_NEW = 5
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "greedy with logprobs": {"temperature": 0, "logprobs": 3},
    "greedy with prompt logprobs": {"temperature": 0, "prompt_logprobs": 2},
    "temperature": {"temperature": 0.8, "seed": 3},
    "top-p, top-k and min-p": {"top_p": 0.7, "top_k": 9, "min_p": 0.01, "seed": 4, "logprobs": 0},
    "penalties": {"temperature": 0, "repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.5},
    "bad words": {"temperature": 0, "bad_words": ("e", "o"), "logit_bias": {3: 5.0}},
    "several": {"n": 3, "temperature": 1.0, "seed": 9, "logprobs": 1},
    "min tokens and a stop": {"temperature": 0, "min_tokens": 2, "stop": ("zz",)},
}
FORMATS = [(dtype, Quantize.NONE) for dtype in DType] + [(DType.FLOAT32, each) for each in Quantize if each is not Quantize.NONE]

COMMON_KV_FORMATS = ExecutorKind.TORCH.kv_formats


def sampling(way: str) -> SamplingParams:
    return SamplingParams(max_tokens=NUM_NEW, ignore_eos=True, **WAYS[way])


def combinations() -> Iterator[Any]:
    for executor, (dtype, quantize), kv_format, mode in product(ExecutorKind, FORMATS, COMMON_KV_FORMATS, KVCacheMode):
        words = {
            "executor": executor.value,
            "dtype": dtype.value,
            "quantize": quantize.value,
            "kv_format": kv_format.value,
            "kv_cache": mode.value,
        }
        yield pytest.param(words, id="-".join(words.values()))


def is_refused(words: dict[str, str]) -> bool:
    return words["executor"] == ExecutorKind.TORCH.value and words["quantize"] != Quantize.NONE.value


def chosen(output: RequestOutput) -> tuple[tuple[int, ...], ...]:
    return tuple(each.token_ids for each in output.outputs)


@pytest.mark.parametrize("words", list(combinations()))
def test_every_combination_answers_or_is_refused_by_name(tiny_model: Path, words: dict[str, Any]) -> None:
    options = {"kv_memory": "1MiB", "max_num_batched_tokens": 64, "threads": 1} | words
    if is_refused(words):
        with pytest.raises(ConfigError, match=r"the torch executor has no integer weights.*native, reference"):
            LLM(tiny_model, **options)
        return
    with LLM(tiny_model, **options) as llm:
        outputs = dict(zip(WAYS, llm.generate([PROMPT] * len(WAYS), [sampling(way) for way in WAYS]), strict=True))
        alone = llm.generate(PROMPT, sampling("greedy"))[0]
        score = llm.score(PROMPT, num_candidates=2)
    for output in outputs.values():
        assert {each.finish_reason for each in output.outputs} == {FinishReason.LENGTH}
        assert {len(each.token_ids) for each in output.outputs} == {NUM_NEW}
    assert len(outputs["several"].outputs) == 3
    for way in ("greedy with logprobs", "greedy with prompt logprobs", "min tokens and a stop"):
        assert chosen(outputs[way]) == chosen(outputs["greedy"]) == chosen(alone)
    assert not set("eo") & set(outputs["bad words"].outputs[0].text)
    assert prompt_logprobs(outputs["greedy with prompt logprobs"]) == pytest.approx(score.logprobs[1:], abs=tolerance(words))


def prompt_logprobs(output: RequestOutput) -> tuple[float, ...]:
    pairs = zip(output.prompt_logprobs or (), output.prompt_token_ids, strict=True)
    return tuple(entry[token_id].logprob for entry, token_id in pairs if entry is not None)


def tolerance(words: dict[str, Any]) -> float:
    """Returns how far a log-probability may move with its batch neighbors: by nothing on the native executor.

    Elsewhere sums may be added in another order, and an activation next to a half may round to another integer.
    """
    if words["executor"] == ExecutorKind.NATIVE.value:
        return 0.0
    return 0.25 if words["quantize"] == Quantize.INT4.value else 0.1


@pytest.mark.parametrize(("dtype", "quantize"), FORMATS)
@pytest.mark.parametrize("kv_format", COMMON_KV_FORMATS)
def test_executors_agree_in_every_number_format(tiny_model: Path, dtype: DType, quantize: Quantize, kv_format: KVFormat) -> None:
    words = {"dtype": dtype.value, "quantize": quantize.value, "kv_format": kv_format.value}
    totals = {}
    for executor in ExecutorKind:
        asked = {"executor": executor.value, **words}
        if not is_refused(asked):
            with LLM(tiny_model, kv_memory="1MiB", threads=1, **asked) as llm:  # type: ignore[arg-type]
                totals[executor] = llm.score(PROMPT).total
    expected = totals.pop(ExecutorKind.REFERENCE)
    is_exact = dtype is DType.FLOAT32 and kv_format is KVFormat.FLOAT32 and quantize is Quantize.NONE
    assert totals
    assert list(totals.values()) == pytest.approx([expected] * len(totals), rel=1e-4 if is_exact else 2e-2)
