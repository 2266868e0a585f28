"""Which code samples: the compiled core where it was built, else the definition in NumPy. Both give the same tokens and bits."""

from __future__ import annotations

from importlib.util import find_spec

from quire.sample.definition import RowToken

if find_spec("quire.native._core") is None:
    from quire.sample.definition import choose_tokens, score_tokens
else:
    from quire.sample.compiled import choose_tokens, score_tokens

__all__ = ["RowToken", "choose_tokens", "score_tokens"]
