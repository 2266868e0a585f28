"""Every family, loaded from real files, gives the numbers that `transformers` gives.

float32: the largest difference over all rows is at most 1e-4 of the largest logit. Measured: 4e-7 to 8e-6 for all
executors; the bound leaves room for another order of sums and would still catch a window that is off by one key.

bfloat16: values are rounded to 8 significant bits where they are stored (weights, cache, and in the native core also the
inputs of matrix products), sums are float32. The yardstick is transformers' own bfloat16 arithmetic on the same weights,
both judged against float32 arithmetic: we must not be further off, and not by more than 3 % (root mean square) in
absolute terms. Measured: a quarter of its error for the reference and torch executors, half of it for the native one,
at most 2.6 %.
"""

from __future__ import annotations

import numpy as np
import pytest

from support.checkpoints import VOCAB
from support.driver import Driver, Logits
from support.pair import Pair

FLOAT32_BOUND = 1e-4
BFLOAT16_BOUND = 3e-2
PROMPT_LENGTHS = (1, 2, 31, 32, 33, 100, 300)


def make_prompt(num_tokens: int) -> list[int]:
    tokens: list[int] = np.random.default_rng(num_tokens).integers(0, VOCAB, num_tokens).tolist()
    return tokens


def largest_error(actual: Logits, expected: Logits) -> float:
    """Returns max |difference| / max |expected| over all rows; the shapes must agree."""
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def mean_error(actual: Logits, expected: Logits) -> float:
    """Returns the root mean square of the difference over that of the expected values."""
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("num_tokens", PROMPT_LENGTHS)
def test_float32_logits_of_every_row_match_transformers(pair: Pair, float32_driver: Driver, num_tokens: int) -> None:
    prompt = make_prompt(max(num_tokens, pair.case.shortest_prompt))
    expected = pair.expected(prompt)
    assert np.abs(expected).max() > 1
    assert largest_error(float32_driver.logits(prompt), expected) <= FLOAT32_BOUND


def test_chunked_prefill_matches_transformers(pair: Pair, float32_driver: Driver) -> None:
    prompt = make_prompt(100)
    assert largest_error(float32_driver.logits(prompt, chunk_size=7), pair.expected(prompt)) <= FLOAT32_BOUND


def test_greedy_tokens_equal_those_of_transformers(pair: Pair, float32_driver: Driver) -> None:
    prompt = make_prompt(31)
    assert float32_driver.greedy(prompt, 20) == pair.expected_greedy(prompt, 20)


def test_bfloat16_is_no_further_from_float32_than_transformers(pair: Pair, bfloat16_driver: Driver) -> None:
    prompt = make_prompt(100)
    exact = pair.expected_from_bfloat16(prompt)
    error = mean_error(bfloat16_driver.logits(prompt), exact)
    assert error <= mean_error(pair.expected_in_bfloat16(prompt), exact)
    assert error <= BFLOAT16_BOUND
