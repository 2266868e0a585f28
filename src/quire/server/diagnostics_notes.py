"""Notes on the prompts of recent answers, by owner and answer: digests, lengths and what the cache did. In memory, bounded.

Where there is too much, the owner of most loses the oldest, so that one owner cannot push out what others keep.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock

from quire.engine.async_engine import AsyncEngine
from quire.engine.completion import RequestGroup
from quire.errors import QuireError
from quire.kv.explain import CacheExplanation
from quire.server.diagnostics_digests import TOKEN_BYTES, ChatDigests, Digester
from quire.server.limits import MAX_LABEL_CHARS, Limits

_FLAT_BYTES = 1024
_BYTES_PER_PROMPT = 512
"""About what a note and each of its prompts take besides digests."""

Explanations = tuple[CacheExplanation | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptNote:
    """What is kept of the prompt of an answer, of the first one where it has several.

    `tokens` and `chat` are digests; `chat` is None where no chat was rendered. `label` is the client's `prompt_cache_key`.
    `lengths` are tokens of each prompt, and `request_ids` what they are called in the engine.
    """

    owner: str
    answer_id: str
    tokens: bytes
    chat: ChatDigests | None
    salt: bytes
    label: str | None
    request_ids: tuple[str, ...]
    lengths: tuple[int, ...]
    created: int

    @property
    def num_tokens(self) -> int:
        return len(self.tokens) // TOKEN_BYTES

    @property
    def num_bytes(self) -> int:
        chat = 0 if self.chat is None else self.chat.num_bytes
        return _FLAT_BYTES + len(self.tokens) + chat + _BYTES_PER_PROMPT * len(self.lengths)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteAuthor:
    """Writes notes on the answers to one owner. `label` is cut to the length that labels may have."""

    digester: Digester
    owner: str
    label: str | None = None

    def note(self, answer_id: str, groups: Sequence[RequestGroup], chat: ChatDigests | None = None) -> PromptNote:
        """Returns the note on an answer to checked groups, one per prompt."""
        prompts = [group.submission.prompt for group in groups]
        return PromptNote(
            owner=self.owner,
            answer_id=answer_id,
            tokens=self.digester.tokens(prompts[0].token_ids),
            chat=chat,
            salt=self.digester.digest(prompts[0].cache_salt),
            label=None if self.label is None else self.label[:MAX_LABEL_CHARS],
            request_ids=tuple(group.request_id for group in groups),
            lengths=tuple(len(prompt.token_ids) for prompt in prompts),
            created=int(time.time()),
        )


@dataclass(slots=True, kw_only=True)
class NotedAnswer:
    """A note in the store, with what the cache did for each prompt once the answer is over."""

    note: PromptNote
    noted_s: float
    explanations: Explanations | None = None

    def explain(self, engine: AsyncEngine) -> Explanations:
        """Returns what the cache did for each prompt; None for one that waits, or that was forgotten while it ran."""
        if self.explanations is not None:
            return self.explanations
        return tuple(engine.find_explanation(request_id) for request_id in self.note.request_ids)


@dataclass(slots=True)
class _Shelf:
    entries: OrderedDict[str, NotedAnswer] = field(default_factory=OrderedDict)
    num_bytes: int = 0

    def drop_oldest(self) -> None:
        _, dropped = self.entries.popitem(last=False)
        self.num_bytes -= dropped.note.num_bytes


class PromptNotes:
    """Keeps notes by owner and id. Safe to use from several threads."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._shelves: dict[str, _Shelf] = {}
        self._lock = Lock()

    @property
    def num_bytes(self) -> int:
        """About the bytes that are kept."""
        return sum(shelf.num_bytes for shelf in self._shelves.values())

    def __len__(self) -> int:
        return sum(len(shelf.entries) for shelf in self._shelves.values())

    def put(self, note: PromptNote) -> NotedAnswer:
        """Keeps a note on an answer that is new, and makes room for it."""
        noted = NotedAnswer(note=note, noted_s=self._clock())
        with self._lock:
            shelf = self._shelves.setdefault(note.owner, _Shelf())
            shelf.entries[note.answer_id] = noted
            shelf.num_bytes += note.num_bytes
            self._drop_expired()
            self._make_room()
        return noted

    def get(self, owner: str, answer_id: str) -> NotedAnswer | None:
        """Returns the note on an answer of an owner, None for one that is not there, or not any more."""
        with self._lock:
            self._drop_expired()
            shelf = self._shelves.get(owner)
            return None if shelf is None else shelf.entries.get(answer_id)

    def newest(self, owner: str, num_skipped: int, num_shown: int) -> list[NotedAnswer]:
        """Returns some of an owner's notes, the newest first."""
        with self._lock:
            self._drop_expired()
            shelf = self._shelves.get(owner)
            noted = [] if shelf is None else list(reversed(shelf.entries.values()))
        return noted[num_skipped : num_skipped + num_shown]

    def _drop_expired(self) -> None:
        since = self._clock() - self._limits.noted_s
        for shelf in self._shelves.values():
            while shelf.entries and next(iter(shelf.entries.values())).noted_s <= since:
                shelf.drop_oldest()

    def _make_room(self) -> None:
        while self.num_bytes > self._limits.noted_bytes:
            max(self._shelves.values(), key=lambda shelf: shelf.num_bytes).drop_oldest()
        while len(self) > self._limits.noted_answers:
            max(self._shelves.values(), key=lambda shelf: len(shelf.entries)).drop_oldest()


def settle(noted: NotedAnswer, engine: AsyncEngine) -> None:
    """Keeps what the cache did for an answer that is over: the engine's own ledger forgets it when many others come."""
    with suppress(QuireError):  # an engine that has ended has no ledger
        noted.explanations = noted.explain(engine)
