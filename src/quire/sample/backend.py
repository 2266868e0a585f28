"""Which code samples: the compiled core where it was built, else the definition in NumPy. Both give the same tokens and bits."""

from __future__ import annotations

from quire.sample.definition import RowToken

try:
    from quire.native import _core  # noqa: F401 - whether it can be loaded
except ImportError:
    from quire.sample.definition import choose_tokens, score_tokens
else:
    from quire.sample.compiled import choose_tokens, score_tokens

__all__ = ["RowToken", "choose_tokens", "score_tokens"]
