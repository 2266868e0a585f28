"""`python -m quire.cli` is `quire`, for a Python whose scripts are not on the path."""

from __future__ import annotations

from quire.cli.main import main

main()
