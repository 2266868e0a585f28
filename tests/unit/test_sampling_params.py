"""Sampling parameters as values: what they mean, how they are copied and hashed, and that none of them can change."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from quire.request import Draw, Greedy, SamplingParams


def test_defaults_draw_sixteen_tokens_from_the_plain_distribution() -> None:
    params = SamplingParams()
    assert params.method == Draw(temperature=1.0, top_k=None, top_p=1.0, min_p=0.0)
    assert (params.n, params.max_tokens, params.seed, params.logprobs) == (1, 16, None, None)


@pytest.mark.parametrize(
    "change",
    [
        lambda bias: bias.update({1: 3.0}), lambda bias: bias.clear(), lambda bias: bias.pop(1), lambda bias: bias.popitem(),
        lambda bias: bias.setdefault(2, 3.0), lambda bias: bias.__delitem__(1), lambda bias: bias.__ior__({1: 3.0}),
    ],
)  # fmt: skip
def test_no_way_to_change_a_dictionary_changes_logit_bias(change: Callable[[Any], object]) -> None:
    params = SamplingParams(logit_bias={1: 2.0})
    with pytest.raises(TypeError, match="cannot be changed"):
        change(params.logit_bias)
    assert params.logit_bias == {1: 2.0}


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(logit_bias={3: -1.0, 5: 2}, stop=["a"], seed=4)])
def test_parameters_can_be_copied_pickled_dumped_and_hashed(params: SamplingParams) -> None:
    pickled = pickle.loads(pickle.dumps(params))  # noqa: S301 - written one call earlier
    for twin in (copy.copy(params), copy.deepcopy(params), pickled, dataclasses.replace(params)):
        assert (twin, hash(twin)) == (params, hash(params))
        with pytest.raises(TypeError):
            twin.logit_bias[1] = 3.0  # type: ignore[index]
    assert SamplingParams(**dataclasses.asdict(params)) == params
    assert json.loads(json.dumps(dataclasses.asdict(params)))["seed"] == params.seed
    assert len({params, SamplingParams(logit_bias={5: 2, 3: -1.0}, stop=["a"], seed=4)}) == (1 if params.logit_bias else 2)


@pytest.mark.parametrize("off", [-1, 0, np.int32(-1)])
def test_top_k_keeps_all_tokens_by_vllms_number_too(off: int) -> None:
    assert SamplingParams(top_k=off) == SamplingParams()
    assert SamplingParams(temperature=0, top_k=off).method == Greedy()


def test_none_leaves_a_list_empty_as_clients_send_it() -> None:
    nothing = SamplingParams(stop=None, bad_words=None, stop_token_ids=None, logit_bias=None)  # type: ignore[arg-type]
    assert nothing == SamplingParams()


def test_one_text_is_a_list_of_one() -> None:
    assert SamplingParams(stop="END").stop == ("END",)
    assert SamplingParams(bad_words=["a", "b"]).bad_words == ("a", "b")


@pytest.mark.parametrize("zero", [0, 0.0, -0.0])
def test_temperature_zero_is_greedy(zero: float) -> None:
    assert SamplingParams(temperature=zero).method == Greedy()


def test_method_keeps_only_the_numbers_of_a_draw() -> None:
    assert SamplingParams(temperature=0.5, top_k=7, top_p=0.9, min_p=0.05).method == Draw(
        temperature=0.5, top_k=7, top_p=0.9, min_p=0.05
    )


def test_signature_names_every_parameter() -> None:
    assert list(inspect.signature(SamplingParams).parameters) == [field.name for field in dataclasses.fields(SamplingParams)]


@pytest.mark.parametrize("kind", [np.int8, np.int64, np.uint16])
def test_numpy_integers_are_integers(kind: type[np.integer[Any]]) -> None:
    five = kind(5)
    params = SamplingParams(
        n=five, top_k=five, seed=five, max_tokens=five, min_tokens=five, logprobs=five, prompt_logprobs=five,
        temperature=five, stop_token_ids=np.array([five]), logit_bias={five: five},
    )  # fmt: skip
    assert params == SamplingParams(
        n=5, top_k=5, seed=5, max_tokens=5, min_tokens=5, logprobs=5, prompt_logprobs=5,
        temperature=5, stop_token_ids=[5], logit_bias={5: 5},
    )  # fmt: skip
    assert json.loads(json.dumps(dataclasses.asdict(params)))["logit_bias"] == {"5": 5}


def test_parameters_cannot_be_changed_after_the_check() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SamplingParams().temperature = -1.0  # type: ignore[misc]
