"""The formulas, each against its definition or a property that only the right formula has."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.executors.reference_math import Scoring, activate, attention, layer_norm, rms_norm, rotate, softmax
from quire.models.rope import NoScaling, build_rope
from quire.models.spec import Activation, RopeSpec

Array = npt.NDArray[Any]
POSITION = np.arange(9, dtype=np.int32)


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def attend(q: Array, k: Array, v: Array, window: int | None = None, softcap: float | None = None) -> Array:
    return attention(q, k, v, Scoring(scale=q.shape[-1] ** -0.5, window=window, softcap=softcap))


def attend_by_hand(q: Array, k: Array, v: Array, window: int | None) -> Array:
    """One query, one head and one key at a time."""
    out = np.zeros_like(q)
    group, offset = q.shape[1] // k.shape[1], len(k) - len(q)
    for i in range(len(q)):
        keys = [j for j in range(len(k)) if j <= offset + i and (window is None or j > offset + i - window)]
        for h in range(q.shape[1]):
            score = [math.exp(float(q[i, h] @ k[j, h // group]) / math.sqrt(q.shape[2])) for j in keys]
            out[i, h] = sum(s * v[j, h // group] for s, j in zip(score, keys, strict=True)) / sum(score)
    return out


@pytest.mark.parametrize("window", [None, 1, 3, 100])
@pytest.mark.parametrize("num_queries", [1, 4, 9])
def test_attention_is_the_formula(num_queries: int, window: int | None) -> None:
    q, k, v = random(num_queries, 6, 4), random(9, 2, 4, seed=1), random(9, 2, 4, seed=2)
    np.testing.assert_allclose(attend(q, k, v, window), attend_by_hand(q, k, v, window), rtol=1e-12)


@given(cut=st.integers(1, 8), window=st.sampled_from([None, 2, 5]))
def test_a_chunk_of_queries_attends_as_it_does_in_the_whole(cut: int, window: int | None) -> None:
    q, k, v = random(9, 2, 4), random(9, 1, 4, seed=1), random(9, 1, 4, seed=2)
    whole = attend(q, k, v, window)
    np.testing.assert_allclose(attend(q[:cut], k[:cut], v[:cut], window), whole[:cut], rtol=1e-12)
    np.testing.assert_allclose(attend(q[cut:], k, v, window), whole[cut:], rtol=1e-12)


def test_keys_outside_the_window_change_nothing() -> None:
    q, k, v = random(1, 2, 4), random(9, 1, 4, seed=1), random(9, 1, 4, seed=2)
    before = attend(q, k, v, window=3)
    k[:6], v[:6] = 50.0, 50.0
    np.testing.assert_array_equal(attend(q, k, v, window=3), before)
    k[6] += 1.0
    assert not np.allclose(attend(q, k, v, window=3), before)


def test_a_softcap_bounds_the_scores() -> None:
    q, k, v = 1000 * random(1, 1, 4), random(2, 1, 4, seed=1), np.array([[[0.0]], [[1.0]]]).repeat(4, axis=2)
    share = attend(q, k, v, softcap=1.0)[0, 0, 0]
    assert 1 / (1 + math.exp(2)) <= share <= 1 / (1 + math.exp(-2))


def test_softmax_does_not_overflow() -> None:
    np.testing.assert_array_equal(softmax(np.array([1e30, 1e30, -1e30], dtype=np.float32)), [0.5, 0.5, 0.0])


def test_rms_norm_ignores_the_scale_of_its_input() -> None:
    x, weight = random(3, 8), random(8, seed=1)
    np.testing.assert_allclose(rms_norm(1000 * x, weight, 1e-12), rms_norm(x, weight, 1e-12), rtol=1e-9)
    np.testing.assert_allclose(np.mean(rms_norm(x, np.ones(8), 0.0) ** 2, axis=-1), 1.0, rtol=1e-12)


def test_layer_norm_ignores_the_mean_of_its_input() -> None:
    x, weight, bias = random(3, 8), random(8, seed=1), random(8, seed=2)
    np.testing.assert_allclose(layer_norm(x + 7.0, weight, bias, 1e-12), layer_norm(x, weight, bias, 1e-12), rtol=1e-9)


def test_rotated_scores_depend_on_the_distance_only() -> None:
    rope = build_rope(4, 100.0, NoScaling())
    q, k = np.tile(random(1, 1, 4), (9, 1, 1)), np.tile(random(1, 1, 4, seed=1), (9, 1, 1))
    scores = rotate(q, POSITION, rope)[:, 0] @ rotate(k, POSITION, rope)[:, 0].T
    for distance in range(-8, 9):
        np.testing.assert_allclose(np.diagonal(scores, distance), np.diagonal(scores, distance)[0], atol=1e-6)
    assert np.abs(scores[0, 0] - scores[0, 5]) > 1e-3


def test_position_zero_is_not_rotated_and_the_rest_of_a_head_never_is() -> None:
    rope = build_rope(4, 100.0, NoScaling())
    x = random(9, 2, 10)
    turned = rotate(x, POSITION, rope)
    np.testing.assert_array_equal(turned[0], x[0])
    np.testing.assert_array_equal(turned[..., 4:], x[..., 4:])
    np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-6)


def test_the_attention_factor_stretches_what_rotates() -> None:
    plain, warm = RopeSpec(inv_freq=(1.0, 0.1)), RopeSpec(inv_freq=(1.0, 0.1), attention_factor=1.5)
    x = random(9, 1, 4)
    np.testing.assert_allclose(rotate(x, POSITION, warm), 1.5 * rotate(x, POSITION, plain), rtol=1e-12)


@pytest.mark.parametrize(
    ("activation", "formula"),
    [
        (Activation.RELU, lambda x: max(x, 0.0)),
        (Activation.SILU, lambda x: x / (1 + math.exp(-x))),
        (Activation.GELU, lambda x: x * 0.5 * math.erfc(-x / math.sqrt(2))),
        (Activation.GELU_TANH, lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
    ],
)
def test_activations_follow_their_formulas(activation: Activation, formula: Any) -> None:
    x = np.linspace(-6.0, 6.0, 241)
    np.testing.assert_allclose(activate(x, activation), [formula(value) for value in x], rtol=1e-12, atol=1e-15)
    assert activate(x.astype(np.float32), activation).dtype == np.float32


@pytest.mark.parametrize("activation", list(Activation))
def test_activations_of_large_inputs_neither_overflow_nor_warn(activation: Activation) -> None:
    assert activate(np.array([-1e4, 1e4], dtype=np.float32), activation).tolist() == [0.0, 1e4]
