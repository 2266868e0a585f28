"""Documents as token ids, and for each token whether the model learns to produce it.

    user: Hi          <|user|> Hi <|end|> <|assistant|> Hello ! <|end|>
    assistant: Hello!     -      -     -        -          x   x    x      x: learned

Every token that holds a character of an answer is learned, and so is the special token that ends the answer. In a text every
token is learned, including the one that ends it. Texts begin as prompts do: with the special tokens that the tokenizer adds.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from hashlib import sha256
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray

from quire.errors import ConfigError
from quire.text.chat import ChatTemplate
from quire.text.marked_text import EncodedText, MarkedText, encode_with_offsets
from quire.text.message_text import ChatEncoder
from quire.text.tokenizer import Tokenizer
from quire.train.answer_spans import Span, find_answers
from quire.train.documents import Document

_ENCODE_BATCH = 512
_MIN_BATCHES_TO_SHARE = 16

Encoded = tuple[NDArray[np.int32], NDArray[np.bool_]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedDocuments:
    """Documents end to end: token_ids and is_learned [N]; document i is [starts[i], starts[i + 1])."""

    token_ids: NDArray[np.int32]
    is_learned: NDArray[np.bool_]
    starts: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document."""
        return np.diff(self.starts)

    def select(self, chosen: NDArray[np.int64]) -> EncodedDocuments:
        """Returns the chosen documents in the given order."""
        pieces = [slice(self.starts[document], self.starts[document + 1]) for document in chosen]
        return EncodedDocuments(
            token_ids=np.concatenate([self.token_ids[piece] for piece in pieces]),
            is_learned=np.concatenate([self.is_learned[piece] for piece in pieces]),
            starts=np.cumsum([0, *self.lengths[chosen]], dtype=np.int64),
        )

    def digest(self) -> str:
        """Returns a digest that identifies this data."""
        return sha256(self.token_ids.tobytes() + self.is_learned.tobytes() + self.starts.tobytes()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedFiles:
    """All pieces of all documents; `num_cut` documents were longer than a piece, `num_unused` pieces held nothing to learn."""

    documents: EncodedDocuments
    num_cut: int
    num_unused: int


class Encoder:
    """Encodes documents with a model directory's tokenizer and chat template, in pieces of at most `max_tokens`."""

    def __init__(self, directory: Path, max_tokens: int, num_processes: int = 1) -> None:
        self._directory, self._num_processes = directory, num_processes
        self._tokenizer = Tokenizer.from_directory(directory)
        self.max_tokens = max_tokens
        source = self._tokenizer.chat_template
        self._template = None if source is None else ChatTemplate(source, special_tokens=self._tokenizer.named_tokens)
        self._chats = None if self._template is None else ChatEncoder(self._template, self._tokenizer)
        self._end_id = min(self._tokenizer.eos_token_ids, default=None)

    def encode(self, documents: Iterable[Document]) -> EncodedFiles:
        """Returns all documents encoded. A longer one becomes several, which do not attend to each other; a piece without a
        token to learn is left out. Raises ConfigError if there is nothing to learn.
        """
        pieces: list[Encoded] = []
        num_cut = num_unused = 0
        for encoded in self._encode_all(documents):
            cut = list(self._cut(encoded))
            used = [(token_ids, is_learned) for token_ids, is_learned in cut if is_learned[1:].any()]
            pieces += used
            num_cut += len(cut) > 1
            num_unused += len(cut) - len(used)
        if not pieces:
            raise ConfigError("the training data holds nothing to learn", next_step="Name files with some text.")
        documents_end_to_end = EncodedDocuments(
            token_ids=np.concatenate([token_ids for token_ids, _ in pieces]),
            is_learned=np.concatenate([is_learned for _, is_learned in pieces]),
            starts=np.cumsum([0, *(len(token_ids) for token_ids, _ in pieces)], dtype=np.int64),
        )
        return EncodedFiles(documents=documents_end_to_end, num_cut=num_cut, num_unused=num_unused)

    def encode_batch(self, batch: Sequence[Document]) -> list[Encoded]:
        """Returns each document uncut: its token ids, and which of them are learned."""
        conversations = [None if document.text is not None else self._written(document) for document in batch]
        texts = [
            document.text or "" if chat is None else chat[0].text for document, chat in zip(batch, conversations, strict=True)
        ]
        encodings = self._tokenizer.encode_batch(texts)
        return [
            self._whole_text(encoding) if chat is None else self._conversation(encoding, *chat)
            for chat, encoding in zip(conversations, encodings, strict=True)
        ]

    def _encode_all(self, documents: Iterable[Document]) -> Iterator[Encoded]:
        """Yields every document encoded, in order; several processes share the work on large data."""
        remaining = iter(documents)
        batches = iter(lambda: list(islice(remaining, _ENCODE_BATCH)), [])
        first = list(islice(batches, _MIN_BATCHES_TO_SHARE))
        if self._num_processes == 1 or len(first) < _MIN_BATCHES_TO_SHARE:
            yield from chain.from_iterable(map(self.encode_batch, chain(first, batches)))
            return
        encode = partial(_encode_in_worker, self._directory, self.max_tokens)
        ignore_interrupts = (signal.SIGINT, signal.SIG_IGN)  # this process ends the workers
        with get_context("spawn").Pool(self._num_processes, initializer=signal.signal, initargs=ignore_interrupts) as pool:
            yield from chain.from_iterable(pool.imap(encode, chain(first, batches)))

    def _cut(self, encoded: Encoded) -> Iterator[Encoded]:
        token_ids, is_learned = encoded
        for start in range(0, len(token_ids), self.max_tokens):
            yield token_ids[start : start + self.max_tokens], is_learned[start : start + self.max_tokens]

    def _written(self, document: Document) -> tuple[MarkedText, list[Span]]:
        """Returns the text of a conversation and the spans of its answers; control tokens spelled by messages are marked."""
        if self._template is None or self._chats is None:
            raise ConfigError(
                "conversations need a chat template",
                given="a tokenizer without one",
                next_step="Use a tokenizer of a chat model, or train a new one.",
            )
        mark = self._chats.mark_for(document.messages)
        messages = tuple(self._chats.marked_messages(document.messages, mark))
        text, spans = find_answers(self._template, replace(document, messages=messages))
        written = MarkedText(text, mark)
        return written, [(written.place(start), written.place(end)) for start, end in spans] if mark else spans

    def _whole_text(self, encoding: tokenizers.Encoding) -> Encoded:
        token_ids = np.array(self._tokenizer.with_special(encoding).ids, dtype=np.int32)
        if self._end_id is not None and (len(token_ids) == 0 or token_ids[-1] != self._end_id):
            token_ids = np.append(token_ids, np.int32(self._end_id))
        return token_ids, np.ones(len(token_ids), dtype=np.bool_)

    def _conversation(self, encoding: tokenizers.Encoding, text: MarkedText, spans: Sequence[Span]) -> Encoded:
        apart = encode_with_offsets(self._tokenizer, text) if text.mark else None
        found = EncodedText(encoding.ids, encoding.offsets) if apart is None else apart
        token_ids = np.array(found.token_ids, dtype=np.int32)
        offsets = np.array(found.offsets, dtype=np.int64).reshape(-1, 2)
        is_learned = np.zeros(len(token_ids), dtype=np.bool_)
        for start, end in spans:
            first = np.searchsorted(offsets[:, 1], start, side="right")
            last = max(first, np.searchsorted(offsets[:, 0], end))
            is_learned[first:last] = True
            if last < len(token_ids) and int(token_ids[last]) in self._tokenizer.special_ids:
                is_learned[last] = True
        return token_ids, is_learned


@cache
def _encoder_of_worker(directory: Path, max_tokens: int) -> Encoder:
    return Encoder(directory, max_tokens)


def _encode_in_worker(directory: Path, max_tokens: int, batch: Sequence[Document]) -> list[Encoded]:
    return _encoder_of_worker(directory, max_tokens).encode_batch(batch)
