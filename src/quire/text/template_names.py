"""The filters, tests and methods that chat templates may use; what is not named here does not exist for them.

Left out on purpose: what sets a width (center, format, ljust, zfill ...), makes noise (random), or needs a loader.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

SHALLOW_FILTERS = frozenset(
    (
        "count",
        "d",
        "default",
        "first",
        "items",
        "last",
        "length",
        "list",
        "map",
        "reject",
        "rejectattr",
        "reverse",
        "select",
        "selectattr",
    )
)
"""Filters that do not look inside the items they are given."""

DEEP_FILTERS = frozenset(
    (
        "abs",
        "capitalize",
        "dictsort",
        "float",
        "indent",
        "int",
        "join",
        "lower",
        "max",
        "min",
        "replace",
        "round",
        "sort",
        "string",
        "title",
        "trim",
        "unique",
        "upper",
    )
)
"""Filters that write or compare everything inside their arguments."""

COMPARING_TESTS = frozenset(
    (
        "==",
        "!=",
        "<",
        "<=",
        ">",
        ">=",
        "eq",
        "equalto",
        "ne",
        "lt",
        "lessthan",
        "le",
        "gt",
        "greaterthan",
        "ge",
        "in",
        "upper",
        "lower",
    )
)
"""Tests that compare everything inside their arguments."""

METHODS: Mapping[type, frozenset[str]] = MappingProxyType(
    {
        str: frozenset(
            (
                "capitalize",
                "casefold",
                "count",
                "endswith",
                "find",
                "index",
                "isalnum",
                "isalpha",
                "isdecimal",
                "isdigit",
                "islower",
                "isnumeric",
                "isspace",
                "isupper",
                "join",
                "lower",
                "lstrip",
                "partition",
                "removeprefix",
                "removesuffix",
                "replace",
                "rfind",
                "rindex",
                "rpartition",
                "rsplit",
                "rstrip",
                "split",
                "splitlines",
                "startswith",
                "strip",
                "swapcase",
                "title",
                "upper",
            )
        ),
        dict: frozenset({"get", "items", "keys", "values"}),
        list: frozenset(),
        tuple: frozenset(),
        int: frozenset(),
        float: frozenset(),
    }
)
"""Attributes of plain values; other types follow Jinja's own sandbox rules."""
