"""What smaller keys and values cost: every KV format against bfloat16 ones, on the same weights, at several lengths of context.

losses     format x context: the next-token distributions of the same texts, cut into pieces of that context
recall     format: facts of a long chat, asked again; of the bundled model, which learned to answer so
verdict    the smallest format whose loss is within a bound at every length
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from quire.bench.divergence import Divergence, DivergenceMeter
from quire.bench.harness import Harness, OnProgress, Room
from quire.bench.quality import QualityWork, piece_logits
from quire.bench.recall import CONTEXT, Recall, RecallChat, measure_recall
from quire.config import ExecutorKind, KVFormat
from quire.engine.options import EngineOptions
from quire.executors.kv_shape import kv_formats_of
from quire.models.checkpoint import Checkpoint

CONTEXTS = (512, 2048)
"""Lengths at which losses are measured, beside the model's longest."""

_BASE = KVFormat.BFLOAT16


@dataclass(frozen=True, slots=True, kw_only=True)
class KVLoss:
    """One KV format at one context, against bfloat16 K/V; `answers` None where no token is marked as one."""

    kv: str
    context: int
    tokens: Divergence
    answers: Divergence | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KVFormatQuality:
    """One KV format. `share` is its bytes of full tiles in units of bfloat16's, `recall` None where nothing was asked."""

    kv: str
    bytes_per_token: int
    share: float
    losses: tuple[KVLoss, ...]
    recall: Recall | None

    @property
    def worst_kl(self) -> float:
        """The largest mean KL of all contexts; NaN if one is."""
        return max((loss.tokens.kl_mean for loss in self.losses), key=lambda kl: (math.isnan(kl), kl))


@dataclass(frozen=True, slots=True, kw_only=True)
class KVQualityReport:
    """Every KV format, smaller ones later; `exact_key_layers` are those whose keys stay bfloat16 by the key-bias rule."""

    formats: tuple[KVFormatQuality, ...]
    recall_of_bfloat16: Recall | None
    exact_key_layers: tuple[int, ...]

    def smallest_within(self, max_kl: float) -> KVFormatQuality | None:
        """Returns the smallest format below bfloat16 whose mean KL is at most `max_kl` at every context; None if none is."""
        fitting = [each for each in self.formats if each.share < 1 and each.worst_kl <= max_kl]
        return min(fitting, key=lambda each: each.bytes_per_token, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class KVWork:
    """What is measured: texts in pieces by context, and chats to recall facts from, none where the model cannot answer."""

    pieces: tuple[QualityWork, ...]
    chats: tuple[RecallChat, ...] = ()

    @property
    def room(self) -> Room:
        longest = max((work.context for work in self.pieces), default=0)
        return Room(num_requests=1, num_tokens=max(longest, CONTEXT) if self.chats else longest)


def contexts_of(max_context: int, longest_text: int) -> tuple[int, ...]:
    """Returns the lengths of context that a model and its texts allow: `CONTEXTS`, and the longest."""
    longest = min(max_context, longest_text)
    return tuple(sorted({min(context, longest) for context in (*CONTEXTS, longest)}))


def measure_kv_quality(
    checkpoint: Checkpoint, work: KVWork, options: EngineOptions, on_progress: OnProgress | None = None
) -> KVQualityReport:
    """Compares every KV format of the native executor with bfloat16 K/V; raises what loading raises."""

    def harness_of(kv_format: KVFormat) -> Harness:
        return Harness(checkpoint, {**options, "kv_format": kv_format.value}, work.room, on_progress)

    base = harness_of(_BASE)
    formats = [each for each in kv_formats_of(checkpoint.spec, ExecutorKind.NATIVE) if each is not _BASE]
    found: list[KVFormatQuality] = []
    exact: tuple[int, ...] = ()
    for kv_format in formats:
        other = harness_of(kv_format)
        exact = exact or other.layout.exact_key_layers
        found.append(_compared(base, other, work))
    recall = measure_recall(base, work.chats) if work.chats else None
    return KVQualityReport(formats=tuple(found), recall_of_bfloat16=recall, exact_key_layers=exact)


def _compared(base: Harness, other: Harness, work: KVWork) -> KVFormatQuality:
    return KVFormatQuality(
        kv=other.layout.format.value,
        bytes_per_token=other.layout.bytes_per_token,
        share=other.layout.bytes_per_block / base.layout.bytes_per_block,
        losses=tuple(_loss(base, other, each) for each in work.pieces),
        recall=measure_recall(other, work.chats) if work.chats else None,
    )


def _loss(base: Harness, other: Harness, work: QualityWork) -> KVLoss:
    meter = DivergenceMeter()
    for done, piece in enumerate(work.pieces):
        other.show_progress(f"Comparing {other.layout.format.value} K/V in {work.context} tokens", done, len(work.pieces))
        meter.add_piece(piece_logits(base, piece.token_ids), piece_logits(other, piece.token_ids), piece.token_ids)
    return KVLoss(
        kv=other.layout.format.value,
        context=work.context,
        tokens=meter.result(),
        answers=meter.result(work.is_answer) if work.is_answer.any() else None,
    )
