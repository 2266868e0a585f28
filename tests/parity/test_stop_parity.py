"""Where an answer stops, compared with the criterion behind transformers' `generate(stop_strings=...)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import tokenizers
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast, StopStringCriteria

from support import tiny_tokenizers as tiny
from support.scripted import answer

X = "<|im_start|>"
PIECES = st.lists(
    st.sampled_from(["a", "b", "an", " a", " the", "\n", "\u4e16", "\N{GRINNING FACE}", X, tiny.BOS]), min_size=1, max_size=6
)
STOPS = st.sampled_from(["a", "ab", " a", "b a", "\na", "\u4e16", "a\u4e16", X, "a" + X, X + "b", X + " a", "|>", "|>a", "e a"])


def first_stop(backend: tokenizers.Tokenizer, prompt_id: int, token_ids: Sequence[int], stops: list[str]) -> int | None:
    """Returns after how many tokens transformers stops."""
    criterion = StopStringCriteria(PreTrainedTokenizerFast(tokenizer_object=backend), stops)
    for num_tokens in range(1, len(token_ids) + 1):
        if bool(criterion(torch.tensor([[prompt_id, *token_ids[:num_tokens]]]), None)[0]):
            return num_tokens
    return None


@pytest.mark.parametrize("make", [tiny.byte_level_backend, tiny.sentencepiece_backend])
@given(
    prompt=st.sampled_from(["?", tiny.BOS]),
    pieces=PIECES,
    stops=st.lists(STOPS, min_size=1, max_size=2, unique=True),
    skips=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_an_answer_stops_with_the_token_that_stops_transformers(
    make: Callable[[], tokenizers.Tokenizer], prompt: str, pieces: list[str], stops: list[str], skips: bool
) -> None:
    assume(prompt != tiny.BOS or "|>a" not in stops)  # transformers lets a stop begin in the prompt
    backend = make()
    tokenizer = tiny.wrapped(backend)
    script = [token_id for piece in pieces for token_id in tokenizer.encode_continuation(piece)]
    prompt_id = backend.token_to_id(prompt)
    output, _ = answer(tokenizer, script, prompt_id, stop=stops, skip_special_tokens=skips, ignore_eos=True)
    expected = first_stop(backend, prompt_id, script, stops)
    assert (len(output.token_ids), output.stop_reason is not None) == (expected or len(script), expected is not None)
