"""Integer weights of every family, loaded from real files: the native core against the definition in NumPy.

Both quantize the same rows, but a value half-way between two steps falls to one side or the other with the last bit of
the float32 sum it comes from, and what follows differs by that step. Measured (root mean square of the difference over that
of the logits): 2e-7 where no value does, up to 1.3 % where some do, and at most 0.36 of what the format itself loses. A scale, a
correction or a group in the wrong place errs by far more than the format.
"""

from __future__ import annotations

import numpy as np
import pytest

from quire.config import DType, Quantize
from quire.executors.native import available_isas
from support.checkpoints import VOCAB
from support.driver import Logits, make_driver
from support.pair import Pair

BOUND = 3e-2
SHARE_OF_LOSS = 0.75


@pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")
@pytest.mark.parametrize("quantize", [Quantize.INT8, Quantize.INT4], ids=lambda each: each.value)
def test_native_integer_logits_match_the_reference(pair: Pair, quantize: Quantize) -> None:
    prompt: list[int] = np.random.default_rng(7).integers(0, VOCAB, 70).tolist()
    exact = make_driver("reference", pair.checkpoint, DType.FLOAT32).logits(prompt)
    expected = make_driver("reference", pair.checkpoint, DType.FLOAT32, quantize).logits(prompt)
    native = make_driver("native", pair.checkpoint, DType.FLOAT32, quantize).logits(prompt)
    assert mean_error(native, expected) <= min(BOUND, SHARE_OF_LOSS * mean_error(expected, exact))


def mean_error(actual: Logits, expected: Logits) -> float:
    """Returns the root mean square of the difference over that of the expected values."""
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))
