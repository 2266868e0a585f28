"""What the clients of `quire bench serve` ask: conversations of random words, of as many tokens as were asked for.

fixed           [prompt ....)
shared-prefix   [shared ............)[prompt ....)                                        the same shared part for all
agent           [shared ............)[prompt ....)[answer)[prompt ....)[answer) ...        `turns` requests, one after the other
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from quire.bench.held_out import PROSE
from quire.bench.serve_apis import Message

_MIN_LETTERS = 3


class Workload(Enum):
    """Which requests are sent."""

    FIXED = "fixed"
    SHARED_PREFIX = "shared-prefix"
    AGENT = "agent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Tokens of a request: its own prompt, the part that all share, its answer; and requests of a conversation."""

    num_prompt: int = 128
    num_shared: int = 512
    num_output: int = 32
    num_turns: int = 4


class Words:
    """Draws random words, so that requests have nothing in common by chance. The same seed draws the same ones."""

    def __init__(self, seed: int, tokens_per_word: float = 1.0) -> None:
        self.tokens_per_word = tokens_per_word
        self._random = random.Random(seed)  # noqa: S311 - words, not keys
        found = set(re.findall(r"[a-z]+", PROSE.read_text(encoding="utf-8")))
        self._words = sorted(word for word in found if len(word) >= _MIN_LETTERS)

    def draw(self, num_words: int) -> str:
        """Returns so many words."""
        return " ".join(self._random.choices(self._words, k=num_words))

    def of_tokens(self, num_tokens: int) -> str:
        """Returns words of about so many tokens, at least one word."""
        return self.draw(max(1, round(num_tokens / self.tokens_per_word)))


class Conversation:
    """Requests of one client, each of which may need the answer to the one before."""

    def __init__(self, opening: Sequence[Message], questions: Sequence[str]) -> None:
        self._messages = list(opening)
        self._questions = questions

    def __len__(self) -> int:
        return len(self._questions)

    def turns(self) -> Iterator[list[Message]]:
        """Yields the messages of each request; `note_answer` comes between two."""
        for question in self._questions:
            self._messages.append({"role": "user", "content": question})
            yield list(self._messages)

    def note_answer(self, text: str) -> None:
        """Appends what the server answered."""
        self._messages.append({"role": "assistant", "content": text})


class Conversations:
    """Makes one conversation after another, of one workload."""

    def __init__(self, workload: Workload, lengths: Lengths, words: Words) -> None:
        self._lengths, self._words = lengths, words
        self._num_turns = lengths.num_turns if workload is Workload.AGENT else 1
        is_shared = workload is not Workload.FIXED
        self._opening = [{"role": "system", "content": words.of_tokens(lengths.num_shared)}] if is_shared else []

    def next(self) -> Conversation:
        """Returns a conversation that no other client holds."""
        questions = [self._words.of_tokens(self._lengths.num_prompt) for _ in range(self._num_turns)]
        return Conversation(self._opening, questions)
