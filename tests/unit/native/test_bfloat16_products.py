"""Products of bfloat16 have the bits that the processor's manual gives its instructions, computed here in exact fractions.

Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2. VDPBF16PS: the product of the odd elements is added
to the sum first, then that of the even ones. TDPBF16PS: even and odd products are summed apart in K order, then the two
sums, then that with the tile. Every addition is one FMA or ADD that rounds to nearest even, takes denormals as zero and
flushes what is tiny after rounding. On a processor without the instructions, scripts/test-emulated tests their emulation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from quire.executors.native import available_isas
from quire.models.weights import round_to_bfloat16

core: Any = pytest.importorskip("quire.native._core", reason="the native core is not compiled here")

SMALLEST_NORMAL = Fraction(1, 2**126)
DEPTH = 32  # elements of K: one instruction of AMX, sixteen of AVX-512


def rounded(x: Fraction) -> Fraction:
    """Returns x with 24 significant bits, nearest even, or zero where that is tiny."""
    if x == 0:
        return x
    exponent = abs(x.numerator).bit_length() - x.denominator.bit_length()
    exponent -= abs(x) < Fraction(2) ** exponent
    quantum = Fraction(2) ** (exponent - 23)
    nearest = round(x / quantum) * quantum
    return nearest if abs(nearest) >= SMALLEST_NORMAL else Fraction(0)


def pairs_in_order(products: Sequence[Fraction]) -> Fraction:
    total = Fraction(0)
    for k in range(0, len(products), 2):
        total = rounded(rounded(total + products[k + 1]) + products[k])
    return total


def even_and_odd_apart(products: Sequence[Fraction]) -> Fraction:
    even = odd = Fraction(0)
    for k in range(0, len(products), 2):
        even, odd = rounded(even + products[k]), rounded(odd + products[k + 1])
    return rounded(even + odd)


ORDERS: dict[str, Callable[[Sequence[Fraction]], Fraction]] = {"avx512_bf16": pairs_in_order, "amx_bf16": even_and_odd_apart}


def widened(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def exact(bits: npt.NDArray[np.uint16]) -> list[Fraction]:
    """Returns the values of bfloat16 as the instructions read them: denormals are zero."""
    values = [Fraction(float(value)) for value in widened(bits)]
    return [value if abs(value) >= SMALLEST_NORMAL else Fraction(0) for value in values]


SCALES = {  # of the weights and of what they multiply
    "ordinary": (1.0, 1.0),
    "products that are tiny": (2.0**-63, 2.0**-63),
    "elements that are denormal": (2.0**40, 2.0**-127),
}


@pytest.mark.parametrize("scales", SCALES.values(), ids=SCALES)
@pytest.mark.parametrize("num_rows", [2, 17], ids=["few rows", "many rows"])  # which meet matrix tiles in other ways
@pytest.mark.parametrize("isa", [isa for isa in available_isas() if isa in ORDERS] or [None])
def test_a_product_has_the_bits_of_the_manual(isa: str | None, num_rows: int, scales: tuple[float, float]) -> None:
    if isa is None:
        pytest.skip("this processor has no instruction for products of bfloat16")
    noise = np.random.default_rng(0)
    weight = (noise.standard_normal((16, DEPTH)) * scales[0]).astype(np.float32)
    a = round_to_bfloat16((noise.standard_normal((num_rows, DEPTH)) * scales[1]).astype(np.float32))
    out = np.empty((num_rows, 16), np.float32)
    core.multiply(isa, core.PanelFormat(core.Encoding.BF16), weight, widened(a), out)
    rows, columns = [exact(row) for row in a], [exact(round_to_bfloat16(row)) for row in weight]
    expected = [[float(ORDERS[isa]([x * w for x, w in zip(row, column, strict=True)])) for column in columns] for row in rows]
    assert out.tolist() == expected
