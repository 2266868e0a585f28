"""What chat templates may name: every filter, global and method of Jinja and of plain values, allowed or refused by name.

What is refused either changes what it is given, is not deterministic, leaves text for bytes, or has no bound on its cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


SHALLOW_FILTERS = _names(
    "attr batch count d default filesizeformat first items last length list map reject rejectattr reverse safe select selectattr "
    "slice"
)
"""Filters that do not look inside the items they are given."""

DEEP_FILTERS = _names(
    "abs capitalize center dictsort e escape float forceescape format groupby indent int join lower max min pprint replace round "
    "sort string striptags sum title tojson trim truncate unique upper urlencode wordcount wordwrap xmlattr"
)
"""Filters that write or compare everything inside their arguments."""

REFUSED_FILTERS: Mapping[str, str] = MappingProxyType(
    {
        "random": "the same messages would give another prompt each time",
        "urlize": "the work it does for a text has no bound",
    }
)

ALLOWED_GLOBALS = frozenset(("cycler", "dict", "joiner", "namespace", "range"))

REFUSED_GLOBALS: Mapping[str, str] = MappingProxyType(
    {"lipsum": "the same messages would give another prompt each time"},
)

COMPARING_TESTS = _names("== != < <= > >= eq equalto ne lt lessthan le gt greaterthan ge in upper lower")
"""Tests that compare everything inside their arguments; the other tests look at the value itself only."""

_INTEGER = _names("as_integer_ratio bit_count bit_length conjugate denominator imag is_integer numerator real")

METHODS: Mapping[type, frozenset[str]] = MappingProxyType(
    {
        str: _names(
            "capitalize casefold center count endswith expandtabs find format format_map index isalnum isalpha isascii isdecimal "
            "isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower lstrip maketrans "
            "partition removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith "
            "strip swapcase title translate upper zfill"
        ),
        dict: _names("copy fromkeys get items keys values"),
        list: _names("copy count index"),
        tuple: _names("count index"),
        int: _INTEGER,
        float: _names("as_integer_ratio conjugate fromhex hex imag is_integer real"),
    }
)
"""Attributes of plain values; other types follow Jinja's own sandbox rules."""

_CHANGES = "it changes a value in place"
_BYTES = "a prompt is text, not bytes"

REFUSED_METHODS: Mapping[type, Mapping[str, str]] = MappingProxyType(
    {
        str: MappingProxyType({"encode": _BYTES}),
        dict: MappingProxyType(dict.fromkeys(_names("clear pop popitem setdefault update"), _CHANGES)),
        list: MappingProxyType(dict.fromkeys(_names("append clear extend insert pop remove reverse sort"), _CHANGES)),
        int: MappingProxyType(dict.fromkeys(_names("from_bytes to_bytes"), _BYTES)),
    }
)


def refusal_of(owner: object, attribute: str) -> str:
    """Returns why an attribute of a value is refused."""
    for kind, reasons in REFUSED_METHODS.items():
        if isinstance(owner, kind) and attribute in reasons:
            return reasons[attribute]
    return "it reaches into Python"
