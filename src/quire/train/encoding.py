"""Documents as token ids, and for each token whether the model learns to produce it.

    user: Hi          <|user|> Hi <|end|> <|assistant|> Hello ! <|end|>
    assistant: Hello!     -      -     -        -          x   x    x      x: learned

The chat template decides the text. It is rendered twice, once with marks in place of the answers, so that the answers'
places are known whatever the template writes around them. The special token behind an answer, which ends it, is learned too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray

from quire.errors import ConfigError
from quire.text.chat import ChatTemplate
from quire.text.tokenizer import Tokenizer
from quire.train.documents import ASSISTANT, Document

_ENCODE_BATCH = 512
_MARK = re.compile("\ue000(\\d+)\ue001")

_MIN_BATCHES_TO_SHARE = 16

Span = tuple[int, int]
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
        """Returns what tells this data from any other."""
        return sha256(self.token_ids.tobytes() + self.is_learned.tobytes() + self.starts.tobytes()).hexdigest()


class Encoder:
    """Encodes documents with a model directory's tokenizer and chat template, in pieces of at most `max_tokens`."""

    def __init__(self, directory: Path, max_tokens: int, num_processes: int = 1) -> None:
        self._directory, self._num_processes = directory, num_processes
        self._tokenizer = Tokenizer.from_directory(directory)
        self._backend = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._backend.no_truncation()
        self._backend.no_padding()
        self._max_tokens = max_tokens
        source = self._tokenizer.chat_template
        self._template = None if source is None else ChatTemplate(source, special_tokens=self._tokenizer.named_tokens)
        self._end_id = min(self._tokenizer.eos_token_ids, default=None)

    def encode(self, documents: Iterable[Document]) -> EncodedDocuments:
        """Returns all documents encoded; a longer one becomes several, so that nothing is lost.

        Raises ConfigError if there is nothing to learn.
        """
        ids: list[NDArray[np.int32]] = []
        learned: list[NDArray[np.bool_]] = []
        for token_ids, is_learned in self._encode_all(documents):
            for start in range(0, len(token_ids), self._max_tokens):
                piece = is_learned[start : start + self._max_tokens]
                if piece[1:].any():
                    ids.append(token_ids[start : start + self._max_tokens])
                    learned.append(piece)
        if not ids:
            raise ConfigError("the training data holds nothing to learn", next_step="Name files with some text.")
        starts = np.cumsum([0, *(len(piece) for piece in ids)], dtype=np.int64)
        return EncodedDocuments(token_ids=np.concatenate(ids), is_learned=np.concatenate(learned), starts=starts)

    def _encode_all(self, documents: Iterable[Document]) -> Iterator[Encoded]:
        """Yields every document encoded, in order; several processes share the work on large data."""
        remaining = iter(documents)
        batches = iter(lambda: list(islice(remaining, _ENCODE_BATCH)), [])
        first = list(islice(batches, _MIN_BATCHES_TO_SHARE))
        if self._num_processes == 1 or len(first) < _MIN_BATCHES_TO_SHARE:
            yield from chain.from_iterable(map(self._encode_batch, chain(first, batches)))
            return
        arguments = (self._directory, self._max_tokens)
        with get_context("spawn").Pool(self._num_processes, initializer=_set_worker, initargs=arguments) as pool:
            yield from chain.from_iterable(pool.imap(_encode_in_worker, chain(first, batches)))

    def _encode_batch(self, batch: Sequence[Document]) -> list[Encoded]:
        marked = [self._marked(document) for document in batch]
        encodings = self._backend.encode_batch([text for text, _ in marked], add_special_tokens=False)
        encoded = []
        for (_, spans), encoding in zip(marked, encodings, strict=True):
            token_ids = np.array(encoding.ids, dtype=np.int32)
            if spans is None:
                encoded.append(self._ended(token_ids))
            else:
                encoded.append((token_ids, self._learned(token_ids, encoding.offsets, spans)))
        return encoded

    def _marked(self, document: Document) -> tuple[str, list[Span] | None]:
        """Returns the document's whole text, and where its answers stand (None: all of it is learned)."""
        if document.text is not None:
            return document.text, None
        if self._template is None:
            raise ConfigError(
                "conversations need a chat template",
                given="a tokenizer without one",
                next_step="Use a tokenizer of a chat model, or let one be trained.",
            )
        return _find_answers(self._template, document)

    def _ended(self, token_ids: NDArray[np.int32]) -> Encoded:
        if self._end_id is not None:
            token_ids = np.append(token_ids, np.int32(self._end_id))
        return token_ids, np.ones(len(token_ids), dtype=np.bool_)

    def _learned(self, token_ids: NDArray[np.int32], offsets: list[Span], spans: list[Span]) -> NDArray[np.bool_]:
        starts = np.array([start for start, _ in offsets])
        is_learned = np.zeros(len(token_ids), dtype=np.bool_)
        for start, end in spans:
            first, last = np.searchsorted(starts, (start, end))
            is_learned[first:last] = True
            if last < len(token_ids) and int(token_ids[last]) in self._tokenizer.special_ids:
                is_learned[last] = True
        return is_learned


def _find_answers(template: ChatTemplate, document: Document) -> tuple[str, list[Span]]:
    messages = list(document.messages)
    marked = [
        {**message, "content": f"\ue000{index}\ue001"} if message["role"] == ASSISTANT else message
        for index, message in enumerate(messages)
    ]
    pieces = _MARK.split(template.render(marked, add_generation_prompt=False))
    text, spans = pieces[0], []
    for index, after in zip(pieces[1::2], pieces[2::2], strict=True):
        answer = messages[int(index)]["content"]
        spans.append((len(text), len(text) + len(answer)))
        text += answer + after
    if text != template.render(messages, add_generation_prompt=False):
        raise ConfigError(
            "the chat template rewrites answers, so that their place in the text is unknown",
            given=repr(messages[-1]["content"][:60]),
            next_step="Use a template that writes them as they are, and answers without surrounding white space.",
        )
    return text, spans


_WORKER: dict[str, Encoder] = {}
"""The encoder of a worker process, which cannot be sent with every batch."""


def _set_worker(directory: Path, max_tokens: int) -> None:
    _WORKER["encoder"] = Encoder(directory, max_tokens)


def _encode_in_worker(batch: Sequence[Document]) -> list[Encoded]:
    return _WORKER["encoder"]._encode_batch(batch)
