"""A checkpoint that another library quantized answers as the same weights do when they are stored widened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quire import LLM, SamplingParams, load_model
from quire.engine.resolve import is_native_built
from support.fake_engine import write_tokenizer
from support.quantized import Method
from support.quantized_checkpoint import write_pair
from support.quantized_methods import BY_NAME, METHODS

_ONE_EACH = (
    "gptq-4 gptq-sorted gptq-v2-3 auto-round-awq awq w4a16-zeros w8a16 int-quantized float-quantized fp8-blocks fp8-tensor"
)
_NAMES = (*_ONE_EACH.split(), "mxfp4-pack-quantized", "quark", "mlx-3", "mlx-4")
CHOSEN = [method for method in METHODS if method.name in _NAMES]
GREEDY = SamplingParams(temperature=0, max_tokens=12, logprobs=3, ignore_eos=True)


@pytest.mark.parametrize("method", CHOSEN, ids=lambda method: method.name)
def test_logits_equal_those_of_the_widened_weights(tmp_path: Path, method: Method) -> None:
    token_ids = [[1, 5, 9, 2, 30, 7, 7]]
    found, expected = (
        load_model(directory, executor="reference")(token_ids, use_cache=False)[0] for directory in write_pair(tmp_path, method)
    )
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("method", CHOSEN, ids=lambda method: method.name)
def test_answers_equal_those_of_the_widened_weights(tmp_path: Path, method: Method) -> None:
    answers = []
    for directory in write_pair(tmp_path, method):
        write_tokenizer(directory)
        with LLM(directory, executor="reference", dtype="bfloat16", kv_memory="16MiB") as llm:
            answers.append(llm.generate("the quick brown fox", GREEDY)[0].outputs[0])
    assert answers[0].token_ids == answers[1].token_ids
    assert answers[0].logprobs == answers[1].logprobs


@pytest.mark.skipif(not is_native_built(), reason="the native core was not compiled here")
@pytest.mark.parametrize("quantize", ["none", "int8", "int4"])
@pytest.mark.parametrize(
    "method", [method for method in CHOSEN if method.name in ("awq", "fp8-blocks")], ids=lambda method: method.name
)
def test_native_executor_packs_the_same_weights(tmp_path: Path, method: Method, quantize: str) -> None:
    answers = []
    for directory in write_pair(tmp_path, method):
        write_tokenizer(directory)
        with LLM(directory, executor="native", dtype="bfloat16", quantize=quantize, kv_memory="16MiB") as llm:
            answers.append(llm.generate("the quick brown fox", GREEDY)[0].outputs[0])
    assert answers[0].token_ids == answers[1].token_ids
    assert answers[0].logprobs == answers[1].logprobs


def test_dtype_auto_is_bfloat16_whatever_the_format_of_the_scales(tmp_path: Path) -> None:
    method = BY_NAME["gptq-4"]
    directory, _ = write_pair(tmp_path, method)
    write_tokenizer(directory)
    with LLM(directory, executor="reference", kv_memory="16MiB") as llm:
        assert llm.config.dtype is not None
        assert llm.config.dtype.value == "bfloat16"
