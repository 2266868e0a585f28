"""Packs documents into batches: end to end, without padding between them, and no document attends to another.

    batch of 12 tokens     a a a a a b b b c c c -         one row for everything that is computed per token
    attention              a a a a a    b b b              documents of similar length side by side; the shorter are
                                        c c c              padded on the right, where causal attention never looks

So there is no mask, nothing can leak, and the cost of attention depends on the documents, not on the length of the batch. The
order is a function of (seed, epoch): continuing a run needs no other state.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quire.errors import ConfigError
from quire.train.encoding import EncodedDocuments

IGNORED = -100
"""The target of a position whose next token is not learned, as in torch."""

_LOOK_AHEAD = 512  # documents among which the next batch is chosen
_MIN_FILL = 0.75  # share of its place that the shortest document of a group fills


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBatch:
    """Some documents: token_ids, positions and targets [N] int64; lengths of the documents in their order.

    A position counts from its document's start. A target is the next token of the document or IGNORED. Tokens after the last
    document are padding.
    """

    token_ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    targets: NDArray[np.int64]
    lengths: tuple[int, ...]

    @property
    def num_learned(self) -> int:
        """Tokens that count for the loss."""
        return int(np.count_nonzero(self.targets != IGNORED))


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Where attention places the tokens of a batch: groups of (documents, length), all places end to end.

    index [P] is the token at each place (padding repeats its document's last token); place [N] is its inverse.
    """

    groups: tuple[tuple[int, int], ...]
    index: NDArray[np.int64]
    place: NDArray[np.int64]


def plan_epoch(lengths: NDArray[np.int64], capacity: int, seed: Sequence[int]) -> list[NDArray[np.int64]]:
    """Returns the documents of each batch of one epoch: shuffled, then packed so that few of `capacity` tokens stay empty.

    Every document occurs once. A batch takes documents in order, and skips those that no longer fit.
    """
    order = np.random.default_rng(list(seed)).permutation(len(lengths))
    window, num_taken, plan = list(order[:_LOOK_AHEAD]), min(_LOOK_AHEAD, len(order)), []
    while window:
        batch = _fill(window, lengths, capacity)
        plan.append(np.array(batch, dtype=np.int64))
        chosen = set(batch)
        window = [document for document in window if document not in chosen]
        window += list(order[num_taken : num_taken + len(batch)])
        num_taken += len(batch)
    return plan


def pack(documents: EncodedDocuments, chosen: NDArray[np.int64], capacity: int) -> PackedBatch:
    """Returns the chosen documents as one batch of `capacity` tokens, longest first."""
    chosen = chosen[np.argsort(-documents.lengths[chosen], kind="stable")]
    token_ids, positions = np.zeros(capacity, dtype=np.int64), np.zeros(capacity, dtype=np.int64)
    targets = np.full(capacity, IGNORED, dtype=np.int64)
    at = 0
    for document in chosen:
        start, end = documents.starts[document], documents.starts[document + 1]
        ids, is_learned = documents.token_ids[start:end], documents.is_learned[start:end]
        token_ids[at : at + len(ids)] = ids
        positions[at : at + len(ids)] = np.arange(len(ids))
        targets[at : at + len(ids) - 1] = np.where(is_learned[1:], ids[1:], IGNORED)
        at += len(ids)
    lengths = tuple(int(length) for length in documents.lengths[chosen])
    return PackedBatch(token_ids=token_ids, positions=positions, targets=targets, lengths=lengths)


def arrange(lengths: Sequence[int], num_tokens: int) -> Grid:
    """Returns the grid of a batch of `num_tokens`, documents longest first; padding is a document of its own."""
    groups: list[tuple[int, int]] = []
    index: list[NDArray[np.int64]] = []
    at, remaining = 0, list(lengths)
    while remaining:
        longest = remaining[0]
        num_documents = sum(1 for length in remaining if length >= _MIN_FILL * longest)
        members, remaining = remaining[:num_documents], remaining[num_documents:]
        groups.append((num_documents, longest))
        for length in members:
            index.append(at + np.minimum(np.arange(longest), length - 1))
            at += length
    if at < num_tokens:  # padding must not become one long document
        groups.append((num_tokens - at, 1))
        index.append(np.arange(at, num_tokens))
    tokens = np.concatenate(index)
    place = np.full(num_tokens, -1, dtype=np.int64)
    place[tokens[::-1]] = np.arange(len(tokens) - 1, -1, -1)  # the first place of a token is its own
    return Grid(groups=tuple(groups), index=tokens, place=place)


class BatchOrder:
    """All batches of a run, epoch after epoch, addressed by index."""

    def __init__(self, documents: EncodedDocuments, capacity: int, seed: int) -> None:
        longest = int(documents.lengths.max())
        if longest > capacity:
            raise ConfigError(
                "a document is longer than a batch",
                given=longest,
                limit=capacity,
                next_step="Use larger batches or a shorter context.",
            )
        self._documents, self._capacity, self._seed = documents, capacity, seed
        self._epochs = [plan_epoch(documents.lengths, capacity, (seed, 0))]
        self._first = [0]

    def num_batches(self, num_epochs: int) -> int:
        """Returns the batches of the first epochs."""
        self._plan(lambda: len(self._epochs) < num_epochs)
        return sum(len(epoch) for epoch in self._epochs[:num_epochs])

    def batch(self, index: int) -> PackedBatch:
        """Returns batch `index` of the run."""
        self._plan(lambda: self._first[-1] + len(self._epochs[-1]) <= index)
        epoch = bisect_right(self._first, index) - 1
        return pack(self._documents, self._epochs[epoch][index - self._first[epoch]], self._capacity)

    def _plan(self, is_short: Callable[[], bool]) -> None:
        while is_short():
            self._first.append(self._first[-1] + len(self._epochs[-1]))
            self._epochs.append(plan_epoch(self._documents.lengths, self._capacity, (self._seed, len(self._epochs))))


def _fill(window: list[int], lengths: NDArray[np.int64], capacity: int) -> list[int]:
    batch, room = [window[0]], capacity - int(lengths[window[0]])
    for document in window[1:]:
        if lengths[document] <= room:
            batch.append(document)
            room -= int(lengths[document])
    return batch
