"""Token masks: which tokens they ban, at the boundaries of their words too."""

from __future__ import annotations

import numpy as np
import pytest

from quire.sample.mask import TokenMask


@pytest.mark.parametrize("vocab_size", [1, 31, 32, 33, 64, 1000])
def test_a_mask_bans_its_tokens_and_no_others(vocab_size: int) -> None:
    for banned in ([0], [vocab_size - 1], list(range(0, vocab_size, 3)), list(range(vocab_size))):
        mask = TokenMask.banning([np.array(banned), np.array([vocab_size])], vocab_size)
        assert mask is not None
        assert np.flatnonzero(mask.banned(vocab_size)).tolist() == banned


@pytest.mark.parametrize("vocab_size", [1, 31, 32, 33, 64, 1000])
def test_a_mask_of_allowed_tokens_bans_all_others_and_those_banned_besides(vocab_size: int) -> None:
    allowed = np.array([0, vocab_size // 2, vocab_size - 1, vocab_size, 2**40])
    only = TokenMask.banning([], vocab_size, allowed)
    fewer = TokenMask.banning([np.array([0])], vocab_size, allowed)
    assert only is not None
    assert fewer is not None
    kept = sorted({0, vocab_size // 2, vocab_size - 1})
    assert np.flatnonzero(~only.banned(vocab_size)).tolist() == kept
    assert np.flatnonzero(~fewer.banned(vocab_size)).tolist() == [each for each in kept if each]


def test_a_token_is_one_bit_of_a_word() -> None:
    mask = TokenMask.banning([np.array([1, 32])], 40)
    assert mask is not None
    assert mask.words.tolist() == [2**32 - 1 - 2, 2**32 - 2]


def test_no_mask_is_made_where_every_token_is_allowed() -> None:
    assert TokenMask.banning([], 40) is None
    assert TokenMask.banning([np.array([], np.int32), np.array([40, 77])], 40) is None
