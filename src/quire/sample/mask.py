"""Which tokens may come next, one bit each: the form in which grammars and bans reach the compiled core."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from quire.sample.arrays import MaskWords, TokenIds

_BITS_PER_WORD = 32


class TokenMask:
    """Token i is allowed if bit i % 32 of word i / 32 is set; the bits after the vocabulary are set too."""

    __slots__ = ("words",)

    def __init__(self, words: MaskWords) -> None:
        self.words = words

    @classmethod
    def banning(cls, banned: Iterable[TokenIds], vocab_size: int, allowed: TokenIds | None = None) -> TokenMask | None:
        """Returns the mask of the tokens `allowed` (None: all) without those `banned`, None where that is all.

        Ids beyond the vocabulary do not count.
        """
        known = [ids[ids < vocab_size] for ids in banned]
        if allowed is None and not any(ids.size for ids in known):
            return None
        is_allowed = np.ones(-(-vocab_size // _BITS_PER_WORD) * _BITS_PER_WORD, dtype=np.bool_)
        if allowed is not None:
            is_allowed[:vocab_size] = False
            is_allowed[allowed[allowed < vocab_size]] = True
        for ids in known:
            is_allowed[ids] = False
        return cls(np.packbits(is_allowed, bitorder="little").view("<u4").astype(np.uint32, copy=False))

    def banned(self, vocab_size: int) -> npt.NDArray[np.bool_]:
        """Returns for each token of the vocabulary whether it may not come next."""
        is_allowed = np.unpackbits(self.words.astype("<u4", copy=False).view(np.uint8), bitorder="little").astype(np.bool_)
        return ~is_allowed[:vocab_size]
