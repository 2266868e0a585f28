"""A request: its tokens are the prompt and then the output, and it knows which of them are still to be computed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.request import FinishReason, Request, SamplingParams


def test_finish_reasons_are_openais_words() -> None:
    assert FinishReason.LENGTH == "length"
    assert f"{FinishReason.STOP} {json.dumps(FinishReason.STOP)}" == 'stop "stop"'


def request_of(num_prompt: int, num_output: int) -> Request:
    output = list(range(100, 100 + num_output))
    return Request(request_id="r", prompt_token_ids=tuple(range(num_prompt)), sampling=SamplingParams(), output_token_ids=output)


@given(num_prompt=st.integers(0, 6), num_output=st.integers(0, 6), start=st.integers(0, 14), stop=st.integers(0, 14))
def test_token_ids_are_the_prompt_followed_by_the_output(num_prompt: int, num_output: int, start: int, stop: int) -> None:
    request = request_of(num_prompt, num_output)
    everything = [*request.prompt_token_ids, *request.output_token_ids]
    assert list(request.token_ids(start, stop)) == everything[start:stop]


def test_pending_tokens_are_the_prompt_in_prefill_and_one_in_decode() -> None:
    request = request_of(5, 0)
    assert (request.num_tokens, request.num_pending_tokens) == (5, 5)
    request.num_computed_tokens = 5
    request.output_token_ids.append(7)
    assert (request.num_tokens, request.num_pending_tokens) == (6, 1)


@pytest.mark.parametrize(("prompt_logprobs", "needed"), [(None, False), (0, True), (3, True)])
def test_prompt_logits_are_needed_only_for_prompt_logprobs(prompt_logprobs: int | None, needed: bool) -> None:
    sampling = SamplingParams(prompt_logprobs=prompt_logprobs)
    request = Request(request_id="r", prompt_token_ids=(1,), sampling=sampling)
    assert request.needs_prompt_logits is needed
