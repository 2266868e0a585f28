"""How gradients become steps: the rate's path, clipping, what decays, and a state that comes back whole."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quire.errors import CheckpointError
from quire.train.optimizer import Optimizer, learning_rate
from quire.train.recipe import OptimizerKind
from support.train_world import exact_recipe, small_decoder, small_spec

BOTH = pytest.mark.parametrize("kind", list(OptimizerKind), ids=lambda kind: kind.value)


@given(
    num_steps=st.integers(1, 300),
    warmup=st.integers(0, 50),
    share=st.floats(0, 1),
    peak=st.floats(1e-6, 1.0),
)
def test_the_rate_rises_to_its_peak_and_falls_to_its_share(num_steps: int, warmup: int, share: float, peak: float) -> None:
    recipe = exact_recipe(learning_rate=peak, warmup_steps=warmup, final_rate_share=share)
    rates = [learning_rate(recipe, step, num_steps) for step in range(num_steps)]
    rising, falling = rates[:warmup], rates[warmup:]
    assert all(0 < rate <= peak * (1 + 1e-12) for rate in rising)
    assert rising == sorted(rising)
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(falling))
    assert all(rate >= share * peak * (1 - 1e-9) for rate in falling)
    if falling:
        assert falling[0] == pytest.approx(peak)
    assert learning_rate(recipe, num_steps + warmup, num_steps) == pytest.approx(share * peak)


def test_halfway_down_the_cosine_stands_halfway_between_peak_and_end() -> None:
    recipe = exact_recipe(learning_rate=1.0, warmup_steps=10, final_rate_share=0.2)
    assert learning_rate(recipe, 60, 110) == pytest.approx(0.6)
    assert learning_rate(recipe, 4, 110) == pytest.approx(0.5)


def optimizer_of(decoder: torch.nn.Module, **changes: object) -> Optimizer:
    return Optimizer(decoder, exact_recipe(**changes))


def set_gradients(decoder: torch.nn.Module, value: float) -> None:
    for parameter in decoder.parameters():
        parameter.grad = torch.full_like(parameter, value)


@pytest.mark.parametrize("limit", [0.5, 1e9])
def test_the_whole_gradient_is_shortened_to_the_limit_and_never_lengthened(limit: float) -> None:
    decoder = small_decoder(small_spec())
    set_gradients(decoder, 0.01)
    num_values = sum(parameter.numel() for parameter in decoder.parameters())
    before = optimizer_of(decoder, clip_norm=limit).clip()
    assert before == pytest.approx(0.01 * math.sqrt(num_values), rel=1e-4)
    after = math.sqrt(
        sum(float(parameter.grad.square().sum()) for parameter in decoder.parameters() if parameter.grad is not None)
    )
    assert after == pytest.approx(min(before, limit), rel=1e-4)


@BOTH
def test_without_a_gradient_matrices_shrink_and_vectors_stay(kind: OptimizerKind) -> None:
    decoder = small_decoder(small_spec())
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    set_gradients(decoder, 0.0)
    optimizer_of(decoder, optimizer=kind, weight_decay=0.5).step(0.1)
    for name, value in decoder.state_dict().items():
        expected = before[name] * (0.95 if value.ndim == 2 else 1.0)
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)


def test_muon_moves_the_layers_matrices_and_adamw_the_rest() -> None:
    decoder = small_decoder(small_spec())
    optimizer = optimizer_of(decoder, optimizer=OptimizerKind.MUON)
    set_gradients(decoder, 0.1)
    optimizer.step(1e-3)
    state = optimizer.state()
    by_muon = {name.removesuffix(".momentum_buffer") for name in state if name.endswith(".momentum_buffer")}
    inner = {name for name, value in decoder.named_parameters() if name.startswith("layers.") and value.ndim == 2}
    assert by_muon == inner
    assert {name.removesuffix(".exp_avg") for name in state if name.endswith(".exp_avg")} == decoder.state_dict().keys() - inner


@BOTH
def test_a_restored_optimizer_takes_the_same_step_bit_for_bit(kind: OptimizerKind) -> None:
    first, second = small_decoder(small_spec()), small_decoder(small_spec())
    optimizer = optimizer_of(first, optimizer=kind)
    set_gradients(first, 0.1)
    optimizer.step(1e-2)
    second.load_state_dict(first.state_dict())
    restored = optimizer_of(second, optimizer=kind)
    restored.restore({name: value.clone() for name, value in optimizer.state().items()})
    for decoder, each in ((first, optimizer), (second, restored)):
        set_gradients(decoder, -0.03)
        each.step(1e-2)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def test_a_state_that_lacks_moments_is_refused_but_one_from_before_the_first_step_is_not() -> None:
    decoder = small_decoder(small_spec())
    optimizer = optimizer_of(decoder)
    optimizer.restore({})
    set_gradients(decoder, 0.1)
    optimizer.step(1e-2)
    whole = optimizer.state()
    part = {name: value for name, value in whole.items() if not name.startswith("final_norm")}
    with pytest.raises(CheckpointError, match="lacks an optimizer state"):
        optimizer_of(decoder).restore(part)
