"""Noise as a function: the same seed and position give the same number, whatever was drawn before."""

from __future__ import annotations

import numpy as np

_MANTISSA_BITS = 53


def uniform(seed: int, position: int) -> float:
    """Returns a number in [0, 1) with 53 random bits, fixed by `seed` and `position` alone.

    Source: the counter-based generator Philox 4x64 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) with
    `seed` as its key and `position` as its counter, so nothing has to be remembered between steps.
    """
    word = int(np.random.Philox(key=seed, counter=position).random_raw())
    return float((word >> (64 - _MANTISSA_BITS)) * 2.0**-_MANTISSA_BITS)
