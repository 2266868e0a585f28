"""The training and validation documents of a run: files read, encoded, and split."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quire.train.documents import read_documents
from quire.train.encoding import EncodedDocuments, EncodedFiles, Encoder
from quire.train.recipe import Job, Recipe
from quire.train.setup import Notice


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """Documents to learn and documents held out for validation (None: too few); `identity` holds their digests."""

    learned: EncodedDocuments
    held_out: EncodedDocuments | None
    identity: dict[str, str]


def load_documents(job: Job, recipe: Recipe, encoder: Encoder, notice: Notice) -> Documents:
    """Returns the documents of a job; raises ConfigError for data that cannot be read or holds nothing to learn."""
    notice("Reading and encoding the training data")
    everything = _encode(encoder, job.data, notice)
    identity = {"training data": everything.digest()}
    if not job.validation:
        learned, held_out = split_documents(everything, recipe)
        return Documents(learned=learned, held_out=held_out, identity=identity)
    validation = _encode(encoder, job.validation, notice)
    identity["validation data"] = validation.digest()
    return Documents(learned=everything, held_out=validation, identity=identity)


def split_documents(documents: EncodedDocuments, recipe: Recipe) -> tuple[EncodedDocuments, EncodedDocuments | None]:
    """Returns the documents to learn and a share of them, chosen by the seed, that is held out (None if that is none)."""
    num_documents = len(documents.lengths)
    num_held_out = int(num_documents * recipe.validation_share)
    if num_held_out == 0:
        return documents, None
    order = np.random.default_rng([recipe.seed, 1]).permutation(num_documents)
    return documents.select(np.sort(order[num_held_out:])), documents.select(np.sort(order[:num_held_out]))


def _encode(encoder: Encoder, paths: Iterable[str], notice: Notice) -> EncodedDocuments:
    encoded = encoder.encode(read_documents(Path(path) for path in paths))
    _notify(encoded, encoder.max_tokens, notice)
    return encoded.documents


def _notify(encoded: EncodedFiles, max_tokens: int, notice: Notice) -> None:
    if encoded.num_cut:
        notice(f"Documents longer than the context of {max_tokens} tokens, split into independent pieces: {encoded.num_cut}")
    if encoded.num_unused:
        notice(f"Pieces left out because they hold no token to learn: {encoded.num_unused}")
