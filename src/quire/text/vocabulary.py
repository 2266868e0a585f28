"""Which tokens of a vocabulary begin with, or hold, given bytes: sorted once, then found by bisection."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np
import numpy.typing as npt

TokenIds = npt.NDArray[np.int32]

MAX_CACHED_WORDS = 256
"""Words whose tokens are remembered; a word of one common letter takes 200 KB in a vocabulary of 150,000 tokens."""

_SEPARATOR = b"\xff"  # in no UTF-8 text


class Vocabulary:
    """The bytes that each token adds to a text; `token_bytes[i]` are those of token i. Immutable, shared by all requests.

    Words are non-empty UTF-8. Sorted by their bytes, the tokens that begin with a word are neighbors; those that hold one
    are found in all bytes joined.
    """

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        order = sorted(range(len(token_bytes)), key=token_bytes.__getitem__)
        self.token_bytes = token_bytes
        self._ids: TokenIds = np.array(order, dtype=np.int32)
        self._sorted = [token_bytes[token_id] for token_id in order]
        self._joined = _SEPARATOR.join(self._sorted)
        self._starts = [0, *accumulate(len(content) + 1 for content in self._sorted)]
        self._max_bytes = max(map(len, token_bytes), default=0)
        self.holding = lru_cache(maxsize=MAX_CACHED_WORDS)(self._find_holding)

    def beginning_with(self, word: bytes) -> TokenIds:
        """Returns the tokens whose bytes begin with a word, in the order of their bytes."""
        if len(word) > self._max_bytes:
            return self._ids[:0]
        first = bisect_left(self._sorted, word)
        last = bisect_left(self._sorted, word[:-1] + bytes([word[-1] + 1]), lo=first)
        return self._ids[first:last]

    def _find_holding(self, word: bytes) -> TokenIds:
        """Returns the tokens whose bytes hold a word anywhere, ascending."""
        found: list[int] = []
        at = self._joined.find(word)
        while at >= 0:
            found.append(bisect_right(self._starts, at) - 1)
            at = self._joined.find(word, self._starts[found[-1] + 1])
        return np.sort(self._ids[found])
