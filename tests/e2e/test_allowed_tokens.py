"""Allowed tokens from `LLM` down to every executor: whatever chooses the tokens, it chooses among these."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quire import LLM, SamplingParams
from quire.errors import SamplingError
from quire.executors.native import available_isas

PROMPTS = ["the quick brown fox", "jumps over the lazy dog and then some more of it", "a"]
ALLOWED = (5, 9, 12, 20, 28, 29)


@pytest.mark.parametrize("executor", ["reference", "native"])
@pytest.mark.parametrize("params", [{"temperature": 0}, {"seed": 3, "n": 2}, {"seed": 4, "logprobs": 2, "frequency_penalty": 1}])
def test_no_other_token_is_chosen_and_neighbors_are_as_alone(tiny_model: Path, executor: str, params: dict[str, Any]) -> None:
    if executor == "native" and not available_isas():
        pytest.skip("the native core is not compiled here")
    free, held = SamplingParams(max_tokens=12, **params), SamplingParams(max_tokens=12, allowed_token_ids=ALLOWED, **params)
    with LLM(tiny_model, executor=executor, kv_memory="8MiB") as llm:
        alone = llm.generate(PROMPTS[1], free)
        together = llm.generate(PROMPTS, [held, free, held])
    chosen = {token_id for output in together[::2] for each in output.outputs for token_id in each.token_ids}
    assert chosen <= set(ALLOWED)
    assert len(chosen) > 1
    assert [each.token_ids for each in together[1].outputs] == [each.token_ids for each in alone[0].outputs]


def test_ids_beyond_the_logits_and_lists_without_a_choice_are_refused(tiny_model: Path) -> None:
    with LLM(tiny_model, kv_memory="8MiB") as llm:
        with pytest.raises(SamplingError, match="names a token the model does not have"):
            llm.generate("a", SamplingParams(allowed_token_ids=[1, 2**31]))
        with pytest.raises(SamplingError, match="leaves no token to choose"):
            llm.generate("a", SamplingParams(allowed_token_ids=[7], stop_token_ids=[7], min_tokens=1))
        with pytest.raises(SamplingError, match="leaves no token to choose"):
            llm.generate("a", SamplingParams(stop_token_ids=range(30), min_tokens=1))
        held = [token_id for token_id in range(30) if "a" not in llm.tokenizer.token_text(token_id)]
        with pytest.raises(SamplingError, match="leaves no token to choose"):
            llm.generate("a", SamplingParams(stop_token_ids=held, bad_words=["a"], min_tokens=1))
        assert llm.generate("a", SamplingParams(stop_token_ids=held, min_tokens=1, max_tokens=2))
