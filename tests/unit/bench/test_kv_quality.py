"""What smaller keys and values cost: losses at several contexts, facts recalled, and the verdict."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from click.testing import CliRunner

from quire.bench.divergence import Divergence
from quire.bench.harness import Harness
from quire.bench.kv_quality import (
    KVFormatQuality,
    KVLoss,
    KVQualityReport,
    KVWork,
    contexts_of,
    measure_kv_quality,
)
from quire.bench.quality import Text, in_pieces
from quire.bench.recall import FACTS_PER_CHAT, MAX_DISTANCE, measure_recall, recall_chats
from quire.cli.kv_quality_view import show_kv_quality
from quire.cli.main import cli
from quire.executors.native import available_isas
from quire.models import bundled
from quire.models.checkpoint import Checkpoint, load_checkpoint
from quire.text.tokenizer import Tokenizer

needs_native = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")
DIVERGENCE = Divergence(num_tokens=9, kl_mean=0.0, kl_p99=0.0, kl_max=0.0, top1=1.0, perplexity=2.0)


def quality(kv: str, share: float, *kls: float) -> KVFormatQuality:
    losses = tuple(
        KVLoss(kv=kv, context=512 * (index + 1), tokens=replace(DIVERGENCE, kl_mean=kl), answers=None)
        for index, kl in enumerate(kls)
    )
    return KVFormatQuality(kv=kv, bytes_per_token=int(1000 * share), share=share, losses=losses, recall=None)


def report_of(*formats: KVFormatQuality, exact: tuple[int, ...] = ()) -> KVQualityReport:
    return KVQualityReport(formats=formats, recall_of_bfloat16=None, exact_key_layers=exact)


@pytest.mark.parametrize(
    ("max_kl", "expected"), [(0.005, "int4"), (0.003, "int8-int4"), (0.001, "int8-int4"), (0.0009, "int8"), (0.0, None)]
)
def test_the_verdict_is_the_smallest_format_within_the_loss_at_every_context(max_kl: float, expected: str | None) -> None:
    report = report_of(
        quality("float32", 2.0, 0.0, 0.0),
        quality("int8", 0.52, 0.0001, 0.0002),
        quality("int8-int4", 0.42, 0.001, 0.0005),
        quality("int4", 0.3, 0.002, 0.004),
    )
    found = report.smallest_within(max_kl)
    assert (None if found is None else found.kv) == expected


def test_a_format_that_gives_nan_is_within_no_loss() -> None:
    report = report_of(quality("int8", 0.5, 0.001, 0.002), quality("int4", 0.3, math.nan, 0.001))
    found = report.smallest_within(1.0)
    assert found is not None
    assert found.kv == "int8"
    assert math.isnan(report.formats[1].worst_kl)


def test_the_verdict_and_the_key_bias_rule_are_told_in_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    show_kv_quality(report_of(quality("int4", 0.3, 0.002), exact=(0, 27)), 0.005)
    shown = " ".join(capsys.readouterr().out.split())
    assert "layers 0, 27: their keys stay bfloat16" in shown
    assert "at most 0.005 nats per token: int4, 0.30x of bfloat16, 2.00e-03" in shown
    show_kv_quality(report_of(quality("int4", 0.3, 0.002)), 0.001)
    assert "No KV format smaller than bfloat16" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("max_context", "longest_text", "expected"),
    [(40960, 5000, (512, 2048, 5000)), (2048, 9000, (512, 2048)), (1024, 9000, (512, 1024)), (2048, 300, (300,))],
)
def test_contexts_are_those_that_model_and_text_allow(max_context: int, longest_text: int, expected: tuple[int, ...]) -> None:
    assert contexts_of(max_context, longest_text) == expected


@pytest.mark.parametrize("given", ["nan", "-1", "inf", "much"])
def test_a_loss_that_is_none_is_refused(given: str) -> None:
    result = CliRunner().invoke(cli, ("bench", "quality", "--max-kl", given))
    assert result.exit_code == 2
    assert "is not a loss; write nats per token" in " ".join(result.stderr.split())


@needs_native
def test_every_format_loses_something_and_says_how_large_it_is(checkpoint: Checkpoint) -> None:
    token_ids = tuple((17 * position + 5) % checkpoint.spec.vocab_size for position in range(300))
    text = Text(token_ids=token_ids, is_answer=(False,) * len(token_ids))
    work = KVWork(pieces=tuple(in_pieces([text], (), context) for context in (100, 200)))
    report = measure_kv_quality(checkpoint, work, {"threads": 1})
    assert [each.kv for each in report.formats] == ["float32", "int8", "int8-int4", "int4"]
    shares = [each.share for each in report.formats]
    assert shares == sorted(shares, reverse=True)
    assert all(0 < each.worst_kl < 1e-3 for each in report.formats)
    assert [loss.context for loss in report.formats[0].losses] == [100, 200]
    assert report.recall_of_bfloat16 is None


@needs_native
@pytest.mark.parametrize("kv_format", ["bfloat16", "int4"])
def test_facts_are_asked_at_every_distance_and_mostly_recalled(kv_format: str) -> None:
    directory = bundled.directory()
    [chat] = recall_chats(Tokenizer.from_model(directory), 1)
    distances = [question.distance for question in chat.questions]
    assert len(distances) == FACTS_PER_CHAT
    assert distances == sorted(distances, reverse=True)
    assert 100 <= distances[-1] < 300
    assert MAX_DISTANCE - 100 <= distances[0] <= MAX_DISTANCE + 100
    work = KVWork(pieces=(), chats=(chat,))
    found = measure_recall(Harness(load_checkpoint(directory), {"kv_format": kv_format, "threads": 1}, work.room), [chat])
    assert found.num_asked == FACTS_PER_CHAT
    assert found.num_right >= FACTS_PER_CHAT // 2
    assert sum(asked for _, _, asked in found.by_distance) == FACTS_PER_CHAT
