"""The table of limits in the documentation is the one in the code."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from quire.server.limits import Limits, limits_table

_PAGE = Path(__file__).parents[3] / "docs" / "serve.md"


def test_documentation_shows_the_limits_of_the_code() -> None:
    assert limits_table(Limits()) in _PAGE.read_text(), "put what limits_table(Limits()) returns into docs/serve.md"


def test_every_limit_says_what_it_limits() -> None:
    assert all(each.metadata["meaning"] for each in fields(Limits))
