from __future__ import annotations

import struct
from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from quire.kv.hashing import MAX_TOKEN_ID, CacheDomain, block_key

TOKENS = st.lists(st.integers(0, MAX_TOKEN_ID), max_size=8)
TEXT = st.text(max_size=6)


def length(count: int) -> bytes:
    return struct.pack("<Q", count)


def test_a_key_is_sha256_over_tagged_length_prefixed_fields() -> None:
    parent = bytes(range(32))
    text = b"P" + length(32) + parent + b"T" + length(8) + struct.pack("<II", 7, MAX_TOKEN_ID)
    assert block_key(parent, (7, MAX_TOKEN_ID)) == sha256(text).digest()


def test_a_root_covers_version_and_every_field_of_the_domain() -> None:
    fields = ((b"V", length(1)), (b"F", b"fp"), (b"A", b"lora"), (b"N", b"ten"), (b"S", b"salt"))
    text = b"".join(tag + length(len(value)) + value for tag, value in fields)
    domain = CacheDomain(fingerprint=b"fp", adapter="lora", tenant="ten", salt="salt")
    assert domain.root() == sha256(text).digest()


@given(st.tuples(TEXT, TEXT, TEXT), st.tuples(TEXT, TEXT, TEXT))
def test_domains_that_differ_anywhere_have_different_roots(left: tuple[str, str, str], right: tuple[str, str, str]) -> None:
    roots = [
        CacheDomain(fingerprint=b"model", adapter=adapter, tenant=tenant, salt=salt).root()
        for adapter, tenant, salt in (left, right)
    ]
    assert (roots[0] == roots[1]) == (left == right)


@given(TOKENS, TOKENS)
def test_keys_are_equal_exactly_when_parent_and_tokens_are(left: list[int], right: list[int]) -> None:
    root = CacheDomain(fingerprint=b"model").root()
    assert (block_key(root, left) == block_key(root, right)) == (left == right)
    assert block_key(block_key(root, left), right) != block_key(root, left)


def test_a_key_names_everything_before_it() -> None:
    root = CacheDomain(fingerprint=b"model").root()
    first, other = block_key(root, (1, 2)), block_key(root, (1, 3))
    assert block_key(first, (5, 6)) != block_key(other, (5, 6))
