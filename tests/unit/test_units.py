"""Sizes and rates: what is written can be read back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.units import GIB, KIB, MIB, cdiv, format_bytes, format_rate, parse_bytes, parse_seconds


@given(numerator=st.integers(-(10**30), 10**30), denominator=st.integers(1, 10**30))
def test_cdiv_is_the_smallest_number_of_groups_that_holds_everything(numerator: int, denominator: int) -> None:
    quotient = cdiv(numerator, denominator)
    assert (quotient - 1) * denominator < numerator <= quotient * denominator


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (KIB - 1, "1023 B"),
        (KIB, "1.0 KiB"),
        (KIB + KIB // 2, "1.5 KiB"),
        (MIB, "1.0 MiB"),
        (2 * GIB, "2.0 GiB"),
        (5000 * GIB, "5000.0 GiB"),
    ],
)
def test_bytes_are_shown_in_the_largest_unit_they_fill(num_bytes: int, text: str) -> None:
    assert format_bytes(num_bytes) == text


@given(num_bytes=st.integers(0, 2**50))
def test_shown_bytes_read_back_to_within_their_rounding(num_bytes: int) -> None:
    assert math.isclose(parse_bytes(format_bytes(num_bytes)), num_bytes, rel_tol=0.05, abs_tol=1)


@pytest.mark.parametrize(
    ("per_second", "text"),
    [
        (0.0, "0 tokens/s"),
        (0.12345, "0.123 tokens/s"),
        (48.46, "48.5 tokens/s"),
        (999.4, "999 tokens/s"),
        (12345.6, "12,346 tokens/s"),
    ],
)
def test_rates_have_three_figures(per_second: float, text: str) -> None:
    assert format_rate(per_second, "tokens") == text


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("4096", 4096),
        ("0", 0),
        ("1b", 1),
        ("2GiB", 2 * GIB),
        ("2 GiB", 2 * GIB),
        (" 512 mib ", 512 * MIB),
        ("1.5g", GIB + GIB // 2),
        ("1k", KIB),
        ("1kB", 1000),
        ("3MB", 3_000_000),
        ("1GB", 10**9),
    ],
)
def test_sizes_are_read_in_the_forms_people_write(text: str, num_bytes: int) -> None:
    assert parse_bytes(text) == num_bytes


@pytest.mark.parametrize(
    "text",
    ["", "GiB", "-1", "1e9", "nan", "inf", "1.5.2g", "1 tib", "2 Gi", "0x10", "1,000", "one", "1. g", "9" * 400, "2000000000GiB"],
)
def test_other_texts_are_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="2GiB"):
        parse_bytes(text)


@given(text=st.text(max_size=12))
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    try:
        assert parse_bytes(text) >= 0
    except ValueError as error:
        assert "is not a size" in str(error)  # noqa: PT017 - the property has two outcomes


@pytest.mark.parametrize(("text", "seconds"), [("150ms", 0.15), ("0.15s", 0.15), (" 2 S ", 2.0), ("1.5 ms", 0.0015)])
def test_times_are_read_with_their_unit(text: str, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "150", "ms", "-1s", "1m", "1e3s", "nan s", "1s 2"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="for example 150ms"):
        parse_seconds(text)
