"""Noise as a function: the same seed and position give the same number, whatever was drawn before."""

from __future__ import annotations

from hashlib import sha256

from quire.sampling import MAX_SEED

_MANTISSA_BITS = 53
_WORD = 2**64 - 1
_MULTIPLIERS = 0xD2E7470EE14C6C93, 0xCA5A826395121157
_KEY_STEPS = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
_NUM_ROUNDS = 10


def uniform(seed: int, position: int) -> float:
    """Returns a number in [0, 1) with 53 random bits, fixed by `seed` and `position` alone.

    Source: the counter-based generator Philox 4x64 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) with
    `seed` as its key and `position` as its counter, so nothing has to be remembered between steps. It is the first word of
    `numpy.random.Philox(key=seed, counter=position)`, which takes many times longer to set up.
    """
    return (_first_word(seed, position + 1) >> (64 - _MANTISSA_BITS)) * 2.0**-_MANTISSA_BITS


def child_seed(seed: int, index: int) -> int:
    """Returns the seed of completion `index`: the first has the request's own, the others digests of it."""
    if index == 0:
        return seed
    digest = sha256(seed.to_bytes(8, "little") + index.to_bytes(8, "little")).digest()
    return int.from_bytes(digest[:8], "little") & MAX_SEED


def _first_word(key: int, counter: int) -> int:
    """Returns the first of the four words that ten rounds make of a counter below 2^128 under a key below 2^128."""
    key0, key1 = key & _WORD, key >> 64
    word0, word1, word2, word3 = counter & _WORD, counter >> 64, 0, 0
    for _ in range(_NUM_ROUNDS):
        product0, product1 = word0 * _MULTIPLIERS[0], word2 * _MULTIPLIERS[1]
        word0, word1 = (product1 >> 64) ^ word1 ^ key0, product1 & _WORD
        word2, word3 = (product0 >> 64) ^ word3 ^ key1, product0 & _WORD
        key0, key1 = (key0 + _KEY_STEPS[0]) & _WORD, (key1 + _KEY_STEPS[1]) & _WORD
    return word0
