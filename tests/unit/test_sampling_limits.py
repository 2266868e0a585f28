"""Sampling parameters end at their limits, and what is of another type or contradicts itself is refused by name."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.errors import RequestError, SamplingError
from quire.request import (
    MAX_COMPLETIONS,
    MAX_LOGPROBS,
    MAX_NAMED_TOKENS,
    MAX_SEED,
    MAX_STOP_CHARS,
    MAX_STOPS,
    SamplingParams,
)
from quire.sampling import MAX_ALLOWED_TOKENS

COUNTS = {
    "n": (1, MAX_COMPLETIONS),
    "top_k": (-1, MAX_SEED),
    "min_tokens": (0, MAX_SEED),
    "seed": (0, MAX_SEED),
    "max_tokens": (1, MAX_SEED),
    "logprobs": (0, MAX_LOGPROBS),
    "prompt_logprobs": (0, MAX_LOGPROBS),
}
OPTIONAL_COUNTS = ("seed", "max_tokens", "logprobs", "prompt_logprobs")
NUMBERS = {
    "temperature": (0.0, 100.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "repetition_penalty": (0.01, 100.0),
}
NOT_COUNTS = [True, False, 1.0, float("nan"), float("inf"), "1", b"1", [1], {}, 10**400, -(10**400), 10**5000]
NOT_NUMBERS = [True, False, float("nan"), float("inf"), float("-inf"), "1", [], {}, 1j, 10**400, -(10**400), 10**5000]
FLAGS = ("ignore_eos", "include_stop_str_in_output", "skip_special_tokens")


def _short(value: object) -> str:
    return "huge" if isinstance(value, int) and abs(value) > 10**99 else repr(value)[:16]


def _refusal(**params: Any) -> SamplingError:
    with pytest.raises(SamplingError) as caught:
        SamplingParams(**params)
    assert isinstance(caught.value, RequestError)
    assert caught.value.next_step
    assert len(str(caught.value)) < 400
    return caught.value


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", NOT_COUNTS, ids=_short)
def test_what_is_no_count_is_refused(name: str, value: object) -> None:
    assert name in str(_refusal(**{name: value}))


@pytest.mark.parametrize("name", COUNTS)
def test_counts_end_at_their_limits(name: str) -> None:
    low, high = COUNTS[name]
    _refusal(**{name: low - 1})
    _refusal(**{name: high + 1})
    others = {"max_tokens": None} if name == "min_tokens" else {}
    for value in (low, high):
        assert getattr(SamplingParams(**{name: value, **others}), name) == (max(value, 0) if name == "top_k" else value)


@pytest.mark.parametrize("name", COUNTS)
def test_none_is_a_count_only_where_it_means_something(name: str) -> None:
    if name in OPTIONAL_COUNTS:
        assert getattr(SamplingParams(**{name: None}), name) is None
    else:
        _refusal(**{name: None})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [*NOT_NUMBERS, None], ids=_short)
def test_what_is_no_finite_number_is_refused(name: str, value: object) -> None:
    assert name in str(_refusal(**{name: value}))


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_end_at_their_limits(name: str) -> None:
    low, high = NUMBERS[name]
    _refusal(**{name: math.nextafter(low, -math.inf)})
    _refusal(**{name: math.nextafter(high, math.inf)})
    for value in (low, high):
        if (name, value) != ("top_p", 0.0):
            assert getattr(SamplingParams(**{name: value}), name) == value


def test_top_p_of_nothing_is_refused() -> None:
    assert "temperature=0" in _refusal(top_p=0.0).next_step


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("value", [0, 1, None, "yes", [], float("nan")], ids=_short)
def test_what_is_neither_true_nor_false_is_no_switch(name: str, value: object) -> None:
    assert name in str(_refusal(**{name: value}))


@pytest.mark.parametrize("value", [*NOT_COUNTS, -1, MAX_SEED + 1, None], ids=_short)
def test_token_ids_are_checked_wherever_they_are_named(value: object) -> None:
    assert "token id" in str(_refusal(stop_token_ids=[value]))
    if value.__hash__ is not None:
        assert "token id" in str(_refusal(logit_bias={value: 1.0}))


@pytest.mark.parametrize("value", [*NOT_NUMBERS, None, 100.1, -100.1], ids=_short)
def test_logit_biases_are_checked(value: object) -> None:
    assert "logit bias" in str(_refusal(logit_bias={3: value}))


def test_logit_bias_is_bounded_in_number_and_cannot_be_changed_afterwards() -> None:
    _refusal(logit_bias=dict.fromkeys(range(MAX_NAMED_TOKENS + 1), 1.0))
    given_bias = {1: 2.0}
    params = SamplingParams(logit_bias=given_bias)
    given_bias[1] = 99.0
    assert params.logit_bias == {1: 2.0}
    with pytest.raises(TypeError):
        params.logit_bias[1] = 3.0  # type: ignore[index]


@pytest.mark.parametrize("value", [-2, None, 1.5])
def test_top_k_says_how_to_keep_all_tokens(value: object) -> None:
    assert "0 keeps all tokens" in _refusal(top_k=value).next_step


@pytest.mark.parametrize("value", [7, [(1, 2)], "ab", 1.5], ids=_short)
def test_logit_bias_must_be_a_mapping(value: object) -> None:
    assert "logit_bias" in str(_refusal(logit_bias=value))


@pytest.mark.parametrize("name", ["stop", "bad_words"])
@pytest.mark.parametrize(
    "value", [[""], ["a", ""], "", [7], [None], [b"a"], 7, True, b"ab", [["a"]], np.array(1), "\ud800", iter("ab")], ids=_short
)
def test_stops_and_bad_words_must_be_texts(name: str, value: object) -> None:
    assert name in str(_refusal(**{name: value}))


@pytest.mark.parametrize("name", ["stop", "bad_words"])
def test_stops_and_bad_words_must_be_unicode(name: str) -> None:
    """Half a surrogate pair is in no text, so neither could ever have an effect."""
    with pytest.raises(SamplingError, match="surrogate"):
        SamplingParams(**{name: ["a", "b\ud83d"]})  # type: ignore[arg-type]
    SamplingParams(**{name: ["\N{GRINNING FACE}"]})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["stop", "bad_words"])
def test_stops_and_bad_words_are_bounded(name: str) -> None:
    _refusal(**{name: ["a"] * (MAX_STOPS + 1)})
    _refusal(**{name: ["a" * (MAX_STOP_CHARS + 1)]})
    assert len(getattr(SamplingParams(**{name: ["a" * MAX_STOP_CHARS] * MAX_STOPS}), name)) == MAX_STOPS


@pytest.mark.parametrize("value", [7, True, 1.5], ids=_short)
def test_stop_token_ids_must_be_a_list(value: object) -> None:
    assert "stop_token_ids must be a list" in str(_refusal(stop_token_ids=value))


@pytest.mark.parametrize("value", ["12", ["1"], {"a": 1}], ids=_short)
def test_stop_token_ids_must_hold_ids(value: object) -> None:
    assert "token id" in str(_refusal(stop_token_ids=value))


@pytest.mark.parametrize("value", [[], 5, "7", [-1], [True], [2**63], [0.5], list(range(MAX_ALLOWED_TOKENS + 1))])
def test_allowed_token_ids_are_a_bounded_list_of_ids(value: object) -> None:
    assert "token" in str(_refusal(allowed_token_ids=value))


def test_allowed_token_ids_beside_bad_words_are_refused() -> None:
    assert "no token to choose" in str(_refusal(allowed_token_ids=[1], bad_words=["a"]))
    assert SamplingParams(allowed_token_ids=(3, 1, 3)).allowed_token_ids == (1, 3)


def test_stop_token_ids_are_bounded() -> None:
    error = _refusal(stop_token_ids=list(range(MAX_NAMED_TOKENS + 1)))
    assert (error.given, error.limit) == (MAX_NAMED_TOKENS + 1, MAX_NAMED_TOKENS)


def test_fewest_tokens_cannot_exceed_most_tokens() -> None:
    error = _refusal(min_tokens=17)
    assert (error.given, error.limit) == (17, 16)
    assert SamplingParams(min_tokens=16).min_tokens == 16
    assert SamplingParams(min_tokens=10**6, max_tokens=None).min_tokens == 10**6


@pytest.mark.parametrize(("name", "value"), [("top_k", 5), ("top_p", 0.9), ("min_p", 0.1)])
def test_greedy_refuses_filters_it_would_ignore(name: str, value: float) -> None:
    assert name in str(_refusal(temperature=0, **{name: value}))


def test_greedy_refuses_copies_of_the_same_answer() -> None:
    assert "n=2" in str(_refusal(temperature=0, n=2))


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("best_of", "no counterpart"),
        ("max_new_tokens", "Quire calls it max_tokens"),
        ("do_sample", "temperature"),
        ("num_return_sequences", "Quire calls it n."),
        ("eos_token_id", "stop_token_ids"),
        ("n_predict", "max_tokens"),
        ("repeat_penalty", "repetition_penalty"),
        ("max_context", "max_context of LLM"),
        ("max_model_len", "max_context of LLM"),
        ("use_tqdm", "use_tqdm of generate"),
        ("temprature", "Did you mean temperature?"),
        ("frobnicate", "max_tokens, min_p, min_tokens"),
    ],
)
def test_unknown_parameters_are_answered_with_ours(name: str, advice: str) -> None:
    with pytest.raises(TypeError, match=name) as caught:
        SamplingParams(**{name: 3})
    assert isinstance(caught.value, SamplingError)
    assert advice in caught.value.next_step
    assert f"{name}=3" in str(caught.value)


def test_parameters_without_names_are_refused() -> None:
    with pytest.raises(SamplingError, match="by its name"):
        SamplingParams(0.5)  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_numpy_floats_are_numbers(kind: type[np.floating[Any]]) -> None:
    half = kind(0.5)
    params = SamplingParams(**dict.fromkeys(NUMBERS, half), logit_bias={1: half})  # type: ignore[arg-type]
    assert params == SamplingParams(**dict.fromkeys(NUMBERS, 0.5), logit_bias={1: 0.5})  # type: ignore[arg-type]
    assert {type(getattr(params, name)) for name in NUMBERS} == {float}


def test_numpy_bools_are_switches_and_no_numbers() -> None:
    assert SamplingParams(ignore_eos=np.True_).ignore_eos is True  # type: ignore[arg-type]
    assert "ignore_eos" in str(_refusal(ignore_eos=np.int64(1)))
    assert "n must" in str(_refusal(n=np.True_))
    assert "temperature" in str(_refusal(temperature=np.False_))


@pytest.mark.parametrize("value", [np.float32("nan"), np.float64("inf"), np.array(0.5), np.array([0.5])], ids=str)
def test_numpy_values_that_are_no_finite_number_are_refused(value: object) -> None:
    assert "temperature" in str(_refusal(temperature=value))


ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.binary(max_size=3),
    st.complex_numbers(), st.lists(st.integers() | st.text(max_size=2) | st.floats(), max_size=3),
    st.dictionaries(st.integers(), st.floats(), max_size=2),
)  # fmt: skip


@given(
    params=st.dictionaries(st.sampled_from([field.name for field in dataclasses.fields(SamplingParams)]), ANYTHING, max_size=4)
)
def test_any_values_build_valid_parameters_or_raise_sampling_error(params: dict[str, Any]) -> None:
    try:
        built = SamplingParams(**params)
    except SamplingError:
        return
    for name, (low, high) in (COUNTS | NUMBERS).items():
        value = getattr(built, name)
        assert (value is None and name in OPTIONAL_COUNTS) or low <= value <= high
    assert all(isinstance(getattr(built, name), bool) for name in FLAGS)
