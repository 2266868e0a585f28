"""The quality cost of number formats: every weight format and every KV format compared with float32, one at a time.

text      [begin][-- piece of a context --)[begin][-- next piece --) ...     every piece is computed from an empty cache
chunk     both executors run the same tokens; then slice by slice of rows: logits of the reference, logits of the other

All weights float32 and all K/V float32 is the reference: exact for a checkpoint of at most 32 bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from quire.bench.divergence import BoolArray, Divergence, DivergenceMeter
from quire.bench.harness import Harness, OnProgress, Room, WeightBits, chunk_step
from quire.config import DType
from quire.engine.batch import rows_per_slice
from quire.engine.options import AUTO, WEIGHT_FORMATS, EngineOptions, engine_config
from quire.engine.resolve import resolve, settled
from quire.errors import ConfigError
from quire.executors.kv_shape import kv_formats_of
from quire.executors.protocol import Float32Array
from quire.models.checkpoint import Checkpoint

_CHUNK_TOKENS = 512
_NOT_QUANTIZED, _EXACT = "none", "float32"
_REFERENCE: EngineOptions = {"dtype": _EXACT, "kv_format": _EXACT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Tokens to predict one after the other; `is_answer` marks those that the model learned, if it learned answers only."""

    token_ids: tuple[int, ...]
    is_answer: tuple[bool, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatQuality:
    """One format compared with the reference, over all tokens and over the answers; `answers` None where no token is marked."""

    weights: str
    kv: str
    bits: WeightBits
    tokens: Divergence
    answers: Divergence | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityReport:
    """Every format on the same tokens; the first is the reference itself, of another checkpoint where one is compared with it."""

    bench: str
    executor: str
    threads: int
    context: int
    num_pieces: int
    formats: tuple[FormatQuality, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityWork:
    """Texts in pieces, none longer than the context."""

    pieces: tuple[Text, ...]
    context: int

    @property
    def is_answer(self) -> BoolArray:
        """Which of all predicted tokens are answers."""
        return np.array([each for piece in self.pieces for each in piece.is_answer[1:]])


def in_pieces(texts: Sequence[Text], begin: Sequence[int], context: int) -> QualityWork:
    """Cuts texts into pieces that fill a context, each after the tokens a prompt begins with.

    A piece without a token to predict is left out. Raises ConfigError if none remains.
    """
    size = context - len(begin)
    cut = (_piece(text, begin, slice(start, start + size)) for text in texts for start in range(0, len(text.token_ids), size))
    pieces = tuple(piece for piece in cut if len(piece.token_ids) > 1) if size > 0 else ()
    if not pieces:
        raise ConfigError("the text holds nothing to predict", next_step="Name a text, and a context, of two tokens or more.")
    return QualityWork(pieces=pieces, context=context)


def _piece(text: Text, begin: Sequence[int], part: slice) -> Text:
    return Text(
        token_ids=(*begin, *text.token_ids[part]),
        is_answer=(*(False,) * len(begin), *text.is_answer[part]),
    )


@dataclass(frozen=True, slots=True)
class Compared:
    """The checkpoint whose formats are measured, and the one whose float32 is the reference: often the same."""

    checkpoint: Checkpoint
    reference: Checkpoint

    def __post_init__(self) -> None:
        sizes = [each.spec.vocab_size for each in (self.checkpoint, self.reference)]
        if sizes[0] != sizes[1]:
            raise ConfigError(
                "models with different vocabularies cannot be compared",
                given=f"{sizes[0]} tokens",
                limit=f"{sizes[1]} tokens of the reference",
                next_step="Compare a checkpoint with the one it was made from.",
            )


def measure_quality(
    compared: Compared, work: QualityWork, options: EngineOptions, on_progress: OnProgress | None = None
) -> QualityReport:
    """Compares every format; `options` may set threads. Raises what loading raises."""
    checkpoint = compared.checkpoint
    room = Room(num_requests=1, num_tokens=work.context)
    reference = Harness(compared.reference, {**options, **_REFERENCE}, room, on_progress)
    formats = [_compared(work, _REFERENCE, reference, reference)]
    others = tuple(_other_formats(checkpoint))
    if checkpoint is not compared.reference:
        others = (_REFERENCE, *others)
    for done, words in enumerate(others):
        reference.show_progress("Comparing formats", done, len(others))
        formats.append(_compared(work, words, reference, Harness(checkpoint, {**options, **words}, room, on_progress)))
    return QualityReport(
        bench="quality",
        executor=reference.executor.name,
        threads=reference.threads,
        context=work.context,
        num_pieces=len(work.pieces),
        formats=tuple(formats),
    )


def _other_formats(checkpoint: Checkpoint) -> Iterator[EngineOptions]:
    """Yields the words that choose every format but the reference's: other weights first, then other K/V.

    A checkpoint may be stored in a format that only `auto` chooses.
    """
    config = resolve(engine_config({}), checkpoint.spec, checkpoint.weights)
    if settled(config.weight_format, "weight_format").value not in (*(dtype.value for dtype in DType), *WEIGHT_FORMATS):
        yield {"dtype": AUTO, "kv_format": _EXACT}
    for dtype in DType:
        if dtype.value != _EXACT:
            yield {"dtype": dtype.value, "kv_format": _EXACT}
    for name in WEIGHT_FORMATS:
        if name != _NOT_QUANTIZED:
            yield {"quantize": name, "kv_format": _EXACT}
    for kv_format in kv_formats_of(checkpoint.spec, settled(config.executor, "executor")):
        if kv_format.value != _EXACT:
            yield {"dtype": _EXACT, "kv_format": kv_format.value}


def _compared(work: QualityWork, words: EngineOptions, reference: Harness, other: Harness) -> FormatQuality:
    """Returns how far `other`, which `words` chose, is from the reference on every piece."""
    meter = DivergenceMeter()
    for piece in work.pieces:
        meter.add_piece(piece_logits(reference, piece.token_ids), piece_logits(other, piece.token_ids), piece.token_ids)
    return FormatQuality(
        weights=other.weight_format.value,
        kv=words["kv_format"],
        bits=other.weight_bits,
        tokens=meter.result(),
        answers=meter.result(work.is_answer) if work.is_answer.any() else None,
    )


def piece_logits(harness: Harness, token_ids: Sequence[int]) -> Iterator[Float32Array]:
    """Yields the logits of every position but the last, computed in chunks from an empty cache, a slice of rows at a time."""
    num_rows, num_predicting = rows_per_slice(harness.spec.vocab_size), len(token_ids) - 1
    for start in range(0, num_predicting, _CHUNK_TOKENS):
        chunk = token_ids[start : min(start + _CHUNK_TOKENS, num_predicting)]
        harness.executor.run(chunk_step(chunk, start, harness.layout))
        for first in range(0, len(chunk), num_rows):
            yield harness.executor.head(np.arange(first, min(first + num_rows, len(chunk)), dtype=np.int32))
