"""Words that an output never holds: at each step, the tokens that would complete one in its text.

    word "London"      output so far        tokens that would complete it
                       "in"                 those that hold "London": "London", " London", "Londoners"
                       "in Lon"             also those that begin with "don": "don", "donkey"
                       "in Londo"           also those that begin with "n"

The text is followed byte by byte, so a word is found however its bytes are spread over tokens: byte level, SentencePiece
with or without a space before it, byte fallback. Ids depend on the automaton's state alone and are kept by state.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quire.text.automaton import Automaton
from quire.text.vocabulary import TokenIds, Vocabulary

MAX_CACHED_STATES = 64
"""States whose ids are remembered at a time, for each submission that bans words."""


class BannedWords:
    """The words of one submission over one vocabulary, shared by its completions.

    Spaces before a word do not count: " London" is "London". Tokens in `hidden_ids` add no text that is shown; a word is
    completed neither in the text with them nor in the text without.
    """

    def __init__(self, words: Sequence[str], vocabulary: Vocabulary, hidden_ids: frozenset[int]) -> None:
        literal = {(word.lstrip(" ") or word).encode() for word in words}
        self.vocabulary = vocabulary
        self.automaton: Automaton[int] = Automaton(literal)
        self.hidden_ids = hidden_ids
        self._hidden: TokenIds = np.array(sorted(hidden_ids), dtype=np.int32)
        self._always: TokenIds = _union([vocabulary.holding(word) for word in literal])
        self._completing: dict[int, list[TokenIds]] = {}  # by state: tokens that begin with what a begun word still lacks
        self._cached: dict[tuple[int, int], TokenIds] = {}
        for word in literal:
            self._note_completing(word)

    def ids_after(self, whole: int, shown: int) -> TokenIds:
        """Returns the banned tokens, ascending, in the states of the text with and without hidden tokens."""
        found = self._cached.get((whole, shown))
        if found is None:
            if len(self._cached) >= MAX_CACHED_STATES:
                self._cached.clear()
            found = self._cached[whole, shown] = self._find(whole, shown)
        return found

    def ever(self) -> TokenIds:
        """Returns the tokens that are banned behind some text, ascending."""
        return _union([self._always, *(ids for begun in self._completing.values() for ids in begun)])

    def _note_completing(self, word: bytes) -> None:
        for num_read, state in enumerate(self.automaton.path(word[:-1]), start=1):
            ids = self.vocabulary.beginning_with(word[num_read:])
            if ids.size:
                self._completing.setdefault(state, []).append(ids)

    def _find(self, whole: int, shown: int) -> TokenIds:
        ids = _union([self._always, *self._begun(whole)])
        if shown == whole:
            return ids
        return _union([ids, np.setdiff1d(_union(self._begun(shown)), self._hidden)])

    def _begun(self, state: int) -> list[TokenIds]:
        return [ids for begun in self.automaton.begun(state) for ids in self._completing.get(begun, ())]


class BannedTokens:
    """Follows one completion and names the tokens that may not come next: a function of its output alone.

    A step costs the bytes of its new tokens; an output that became shorter is read from its start.
    """

    __slots__ = ("_num_read", "_shown", "_whole", "_words")

    def __init__(self, words: BannedWords) -> None:
        self._words = words
        self._num_read = 0
        self._whole = self._shown = Automaton.START

    def after(self, output_token_ids: Sequence[int]) -> TokenIds:
        """Returns the tokens, ascending, that would complete a banned word behind these; some may be beyond the model's own."""
        if len(output_token_ids) < self._num_read:
            self._num_read = 0
            self._whole = self._shown = Automaton.START
        for token_id in output_token_ids[self._num_read :]:
            self._read(token_id)
        self._num_read = len(output_token_ids)
        return self._words.ids_after(self._whole, self._shown)

    def _read(self, token_id: int) -> None:
        token_bytes = self._words.vocabulary.token_bytes
        content = token_bytes[token_id] if token_id < len(token_bytes) else b""
        is_same = self._shown == self._whole
        self._whole = self._follow(self._whole, content)
        if token_id not in self._words.hidden_ids:
            self._shown = self._whole if is_same else self._follow(self._shown, content)

    def _follow(self, state: int, content: bytes) -> int:
        for byte in content:
            state = self._words.automaton.follow(state, byte)
        return state


def _union(ids: Sequence[TokenIds]) -> TokenIds:
    return np.unique(np.concatenate(ids)) if ids else np.empty(0, dtype=np.int32)
