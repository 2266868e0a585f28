"""The text that tells which inputs matter: a bundled one, or the user's own, as pieces of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from quire.errors import ConfigError
from quire.quantize.layer_pass import Pieces
from quire.text.tokenizer import AddSpecial, Tokenizer

BUNDLED = Path(__file__).with_name("calibration.txt")
PIECE_TOKENS = 512
"""Long enough that attention is what it is in use; every piece is computed from an empty cache."""


def calibration_pieces(text: str, tokenizer: Tokenizer, max_context: int) -> Pieces:
    """Returns a text as pieces of at most PIECE_TOKENS tokens, each after the tokens that a prompt begins with.

    Raises ConfigError for a text of fewer than two tokens.
    """
    begin = tokenizer.encode("")
    token_ids = tokenizer.encode(text, special=AddSpecial.NO)
    size = min(PIECE_TOKENS, max_context) - len(begin)
    if size < 1 or len(token_ids) < 2:
        raise ConfigError(
            "the text to calibrate with is too short",
            given=f"{len(token_ids)} tokens",
            next_step="Name a text of a page or more.",
        )
    return [[*begin, *_cut(token_ids, start, size)] for start in range(0, len(token_ids), size)]


def _cut(token_ids: Sequence[int], start: int, size: int) -> Sequence[int]:
    return token_ids[start : start + size]
