"""The compiled sampler against its definition in NumPy: the same tokens and the same bits, on every instruction set."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.executors.native import available_isas, load_core
from quire.request import Draw, SamplingParams
from quire.sample import ranking, rows
from quire.sample.buckets import LEAST, Buckets, sharpness
from quire.sample.draw import draw, least_nats
from quire.sample.sampler import SampleRow, sample, score

pytestmark = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")

Row = npt.NDArray[Any]
METHODS = st.builds(
    Draw,
    temperature=st.sampled_from([5e-324, 1e-300, 0.05, 0.7, 1.0, 3.0, 100.0]),
    top_k=st.one_of(st.none(), st.sampled_from([1, 2, 3, 20, 100, 5000])),
    top_p=st.sampled_from([1e-9, 0.1, 0.5, 0.93, 1 - 1e-12, 1.0]),
    min_p=st.sampled_from([0.0, 1e-30, 0.02, 0.4, 1.0]),
)
NOISE = st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([0.0, 0.5, 1 - 2**-53]))


@st.composite
def logits(draw_value: st.DrawFn) -> npt.NDArray[np.float32]:
    """Rows of up to three hundred blocks: flat, coarse (many equal ones), narrow and wide."""
    size = draw_value(st.one_of(st.integers(1, 200), st.sampled_from([4096, 4097, 19_001])))
    generator = np.random.default_rng(draw_value(st.integers(0, 2**32)))
    values = generator.normal(size=size) * draw_value(st.sampled_from([0.0, 1e-6, 1.0, 4.0, 60.0]))
    if draw_value(st.booleans()):
        values = np.round(values)
    return values.astype(np.float32)


def with_bans(row: Row) -> npt.NDArray[np.float64]:
    changed = row.astype(np.float64)
    changed[1::3] = -np.inf
    return changed


@given(row=logits(), method=METHODS, noise=NOISE)
@settings(max_examples=300, deadline=None)
def test_the_core_draws_what_the_definition_draws(row: npt.NDArray[np.float32], method: Draw, noise: float) -> None:
    core = load_core()
    for values in (row, with_bans(row)):
        expected = draw(values, method, noise)
        for isa in available_isas():
            chosen = sharpness(method.temperature), method.top_k, method.top_p, least_nats(method)
            assert core.draw(isa, values, *chosen, noise) == expected


@pytest.mark.parametrize("weight", [3e-6, 1e-7, 1e-9])
def test_a_goal_among_light_tokens_is_met_by_the_right_one(weight: float) -> None:
    generator = np.random.default_rng(5)
    row = (math.log(weight) + 1e-3 * generator.normal(size=20_000)).astype(np.float32)
    row[7_000] = 0.0
    lightest = 1 - 20_000 * weight
    for top_p, noise in zip(generator.uniform(lightest, 1, size=20), generator.uniform(lightest, 1, size=20), strict=True):
        for method in (
            Draw(temperature=1.0, top_k=None, top_p=top_p, min_p=0.0),
            Draw(temperature=1.0, top_k=None, top_p=1.0, min_p=0.0),
        ):
            for values in (row, with_bans(row)):
                expected = draw(values, method, noise)
                for isa in available_isas():
                    assert load_core().draw(isa, values, 1.0, None, method.top_p, LEAST, noise) == expected


@given(row=logits(), count=st.sampled_from([1, 2, 7, 64, 300, 5000]))
@settings(max_examples=150, deadline=None)
def test_the_core_ranks_and_sums_as_the_definition_does(row: npt.NDArray[np.float32], count: int) -> None:
    core = load_core()
    for isa in available_isas():
        assert core.largest_ids(isa, row, count) == ranking.largest_ids(row, count).tolist()
        assert core.best_id(isa, row) == int(row.argmax())
        assert core.exp_sum(isa, row) == ranking.exp_sum(row)
    token_id = row.size * 2 // 3
    assert core.num_before(row, token_id) == ranking.num_before(row, token_id)


@given(row=logits(), spoiled=st.integers(0, 10**6), value=st.sampled_from([np.nan, np.inf, -np.inf]))
@settings(deadline=None)
def test_a_row_that_is_not_finite_has_no_best_token(row: npt.NDArray[np.float32], spoiled: int, value: float) -> None:
    row[spoiled % row.size] = value
    for isa in available_isas():
        assert load_core().best_id(isa, row) is None


@given(row=logits(), method=METHODS, seed=st.integers(0, 2**63 - 1), num_top=st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_a_sampler_without_the_core_samples_the_same(row: npt.NDArray[np.float32], method: Draw, seed: int, num_top: int) -> None:
    params = SamplingParams(
        temperature=method.temperature, top_p=method.top_p, min_p=method.min_p, logprobs=num_top, logit_bias={0: 2.0}
    )
    owner = SampleRow(params=params, seed=seed, prompt_token_ids=(), output_token_ids=(0,), eos_token_ids=frozenset())
    found = sample(row[None], [owner]), score(row[None], [row.size - 1], num_top)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "_CORE", None)
        assert (sample(row[None], [owner]), score(row[None], [row.size - 1], num_top)) == found


@given(row=logits())
@settings(deadline=None)
def test_the_sum_of_weights_is_that_of_exponentials(row: npt.NDArray[np.float32]) -> None:
    expected = math.fsum(math.exp(float(value) - float(row.max())) for value in row)
    # One weight errs by 4e-15, the sum of V of them by V roundings more, and what is lighter than e^-44 is left out.
    rel_tol = 4e-15 + row.size * (2**-53 + math.exp(LEAST))
    assert math.isclose(Buckets(row).total, expected, rel_tol=rel_tol)


@pytest.mark.parametrize("temperature", [5e-324, sys.float_info.min, 1e-300])
def test_the_smallest_temperatures_draw_the_best_token(temperature: float) -> None:
    method = Draw(temperature=temperature, top_k=None, top_p=1.0, min_p=0.0)
    row = np.array([1.0, 3.0, 3.0, 2.0], dtype=np.float32)
    assert [draw(row, method, noise) for noise in (0.0, 0.4, 0.6, 1 - 2**-53)] == [1, 1, 2, 2]


def test_rows_and_ids_that_do_not_exist_are_refused() -> None:
    core, row, none = load_core(), np.zeros(5, np.float32), np.zeros(0, np.float32)
    calls: list[tuple[str, tuple[Any, ...]]] = [
        ("best_id", ("", none)),
        ("draw", ("", none, 1.0, None, 1.0, LEAST, 0.5)),
        ("draw", ("", row, 1.0, 0, 1.0, LEAST, 0.5)),
        ("largest_ids", ("", none, 1)),
        ("largest_ids", ("", row, 0)),
        ("exp_sum", ("", none)),
        ("num_before", (row, 5)),
        ("num_before", (row, -1)),
    ]
    for name, arguments in calls:
        with pytest.raises(ValueError, match=r"row|asked|draw"):
            getattr(core, name)(*arguments)
