"""Strict JSON, compared with Python's parser where both accept."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.server.errors import ApiError
from quire.server.json_body import parse_body
from quire.server.limits import Limits

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), _VALUES, max_size=5), st.booleans())
def test_every_object_is_read_as_it_was_written(value: dict[str, object], is_ascii: bool) -> None:
    assert parse_body(json.dumps(value, ensure_ascii=is_ascii).encode(), Limits()) == value


@given(st.binary(max_size=60))
def test_any_bytes_are_an_object_or_refused(body: bytes) -> None:
    try:
        read: object = parse_body(body, Limits())
    except ApiError as error:
        read = error
    assert isinstance(read, dict) or (isinstance(read, ApiError) and read.refusal.code == "invalid_json")


@pytest.mark.parametrize("escape", ["\\ud800", "\\uDFFF", "\\udc00\\ud800", "x\\ud83d"])
def test_half_a_character_is_refused_wherever_it_is(escape: str) -> None:
    for body in (f'{{"a": ["{escape}"]}}', f'{{"a": [{{"{escape}": 1}}]}}'):
        with pytest.raises(ApiError, match="surrogate"):
            parse_body(body.encode(), Limits())
    assert parse_body(b'{"a": "\\ud83d\\ude00"}', Limits()) == {"a": "\U0001f600"}


def test_nesting_is_limited_exactly() -> None:
    limits = Limits(json_depth=5)
    deepest = b'{"a": [[[[1]]]]}'
    assert parse_body(deepest, limits) == {"a": [[[[1]]]]}
    with pytest.raises(ApiError, match="more than 5 deep"):
        parse_body(b'{"a": [[[[[1]]]]]}', limits)


def test_digits_are_limited_exactly() -> None:
    assert parse_body(b'{"a": 12345678901234567890}', Limits())["a"] == 12345678901234567890
    for digits in (b"123456789012345678901", b"1" * 100_000):
        with pytest.raises(ApiError, match="digits"):
            parse_body(b'{"a": ' + digits + b"}", Limits())
