"""What a format costs: the figures by hand, the pieces a text is cut into, and every format on a tiny random model."""

from __future__ import annotations

import math

import numpy as np
import pytest

from quire.bench.divergence import DivergenceMeter, log_softmax
from quire.bench.held_out import PROSE, held_out_texts, plain_text
from quire.bench.quality import Compared, QualityReport, QualityWork, Text, in_pieces, measure_quality
from quire.config import DType, ExecutorKind
from quire.engine.options import WEIGHT_FORMATS
from quire.errors import ConfigError
from quire.executors.native import available_isas
from quire.models import bundled
from quire.models.checkpoint import Checkpoint
from quire.text.tokenizer import Tokenizer

EVEN, ODD, ALIKE = ([math.log(share) for share in row] for row in ((0.5, 0.25, 0.25), (0.25, 0.5, 0.25), (0.4, 0.3, 0.3)))
needs_native = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")


def rows(*values: list[float]) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def text(*token_ids: int) -> Text:
    return Text(token_ids=token_ids, is_answer=tuple(token_id % 2 == 1 for token_id in token_ids))


def test_divergence_is_the_textbooks() -> None:
    meter = DivergenceMeter()
    meter.add(rows(EVEN), rows(ODD), np.array([1]))
    found = meter.result()
    assert found.kl_mean == pytest.approx(0.5 * math.log(2) - 0.25 * math.log(2), rel=1e-6)
    assert found.perplexity == pytest.approx(2)
    assert found.top1 == 0
    assert found.num_tokens == 1


def test_a_loss_beyond_the_range_of_floats_is_an_infinite_perplexity() -> None:
    meter = DivergenceMeter()
    meter.add(rows(EVEN), rows([0.0, 800.0, 0.0]), np.array([0]))
    assert meter.result().perplexity == math.inf


def test_a_constant_added_to_logits_is_no_divergence() -> None:
    meter = DivergenceMeter()
    meter.add(rows(EVEN, ODD), rows(EVEN, ODD) + np.float32(1000), np.array([0, 0]))
    assert meter.result().kl_max == pytest.approx(0, abs=1e-4)
    assert np.exp(log_softmax(rows(EVEN) + np.float32(1000))).sum() == pytest.approx(1, abs=1e-12)


def test_slices_are_figures_of_one_text_and_rows_can_be_chosen() -> None:
    whole, sliced = DivergenceMeter(), DivergenceMeter()
    whole.add(rows(EVEN, ODD, EVEN), rows(ODD, ODD, ALIKE), np.array([0, 1, 2]))
    sliced.add(rows(EVEN), rows(ODD), np.array([0]))
    sliced.add(rows(ODD, EVEN), rows(ODD, ALIKE), np.array([1, 2]))
    assert whole.result() == sliced.result()
    assert whole.result().top1 == pytest.approx(2 / 3)
    chosen = whole.result(np.array([False, True, False]))
    assert (chosen.num_tokens, chosen.kl_max, chosen.top1) == (1, 0, 1)
    assert chosen.perplexity == pytest.approx(2)


def test_texts_are_cut_into_contexts_that_begin_as_prompts_do() -> None:
    work = in_pieces([text(1, 2, 3, 4, 5), text(6, 7)], (9,), 3)
    assert [piece.token_ids for piece in work.pieces] == [(9, 1, 2), (9, 3, 4), (9, 5), (9, 6, 7)]
    assert work.pieces[0].is_answer == (False, True, False)
    assert all(len(piece.token_ids) <= work.context for piece in work.pieces)


@pytest.mark.parametrize(("texts", "begin", "context"), [([text(1)], (), 8), ([], (9,), 8), ([text(1, 2)], (9, 9), 2)])
def test_nothing_to_predict_is_refused(texts: list[Text], begin: tuple[int, ...], context: int) -> None:
    with pytest.raises(ConfigError, match="nothing to predict"):
        in_pieces(texts, begin, context)


@pytest.fixture(scope="module")
def report(checkpoint: Checkpoint) -> QualityReport:
    token_ids = [(17 * position + 5) % checkpoint.spec.vocab_size for position in range(700)]
    return measure_quality(Compared(checkpoint, checkpoint), in_pieces([text(*token_ids)], (), 600), {"threads": 1})


@needs_native
def test_every_format_is_compared_and_only_one_changes_at_a_time(report: QualityReport) -> None:
    others = {dtype.value for dtype in DType} | set(WEIGHT_FORMATS) - {"none"}
    pairs = [(each.weights, each.kv) for each in report.formats]
    assert pairs[0] == ("float32", "float32")
    assert {weights for weights, kv in pairs if kv == "float32"} == others
    assert {kv for weights, kv in pairs if weights == "float32"} == {
        kv_format.value for kv_format in ExecutorKind.NATIVE.kv_formats
    }
    assert len(pairs) == len(set(pairs)) == len(others) + len(ExecutorKind.NATIVE.kv_formats) - 1


@needs_native
def test_bits_are_those_of_the_elements_and_their_scales(report: QualityReport) -> None:
    layers = {each.weights: each.bits.layers for each in report.formats}
    assert layers["float32"] == 2 * layers["bfloat16"] >= 32  # rows are padded to panels of 64
    assert 4 < layers["int4"] / layers["float32"] * 32 < 8  # rows of 64 have the header of 256
    assert 8 < layers["int8"] / layers["float32"] * 32 < 9
    assert all(each.bits.everywhere >= 4 for each in report.formats)


@needs_native
def test_the_reference_is_no_distance_from_itself_and_a_format_is_some(report: QualityReport) -> None:
    reference, *others = report.formats
    assert (reference.tokens.kl_max, reference.tokens.top1) == (0, 1)
    for each in others:
        assert each.tokens.num_tokens == 700 - report.num_pieces  # the first token of a piece is predicted by nothing
        assert each.tokens.kl_p99 >= 0
        assert 0 < each.tokens.kl_mean < 0.1
        assert each.tokens.perplexity == pytest.approx(reference.tokens.perplexity, rel=0.1)
        assert each.answers is not None
        assert 0 < each.answers.num_tokens < each.tokens.num_tokens


@needs_native
def test_the_reference_predicts_what_teacher_forcing_of_the_whole_piece_does(checkpoint: Checkpoint) -> None:
    torch = pytest.importorskip("torch")
    from quire.verify.torch_scorer import TorchScorer

    token_ids = tuple(int(each) for each in np.random.default_rng(1).integers(0, checkpoint.spec.vocab_size, 90))
    plain = Text(token_ids=token_ids, is_answer=(False,) * len(token_ids))
    found = measure_quality(Compared(checkpoint, checkpoint), QualityWork(pieces=(plain,), context=90), {"threads": 1}).formats[0]
    expected = TorchScorer(checkpoint, torch.get_num_threads()).logprobs(token_ids)
    assert math.log(found.tokens.perplexity) == pytest.approx(-expected.mean(), rel=1e-5)
    assert found.answers is None


def test_the_prose_is_long_enough_to_tell_formats_apart_and_no_answer() -> None:
    text = plain_text(PROSE.read_text(encoding="utf-8"), Tokenizer.from_directory(bundled.directory()))
    assert len(text.token_ids) > 1500
    assert not any(text.is_answer)


def test_the_held_out_chats_are_in_the_bundled_models_format() -> None:
    tokenizer = Tokenizer.from_directory(bundled.directory())
    chats = held_out_texts(tokenizer)
    assert 4000 < sum(len(chat.token_ids) for chat in chats) < 8000
    for chat in chats:
        answers = [token_id for token_id, is_answer in zip(chat.token_ids, chat.is_answer, strict=True) if is_answer]
        whole = tokenizer.decode(chat.token_ids, skip_special=False)
        assert whole.startswith("<|user|>")
        assert whole.endswith("<|end|>")
        said = [turn.split("<|end|>")[0] + "<|end|>" for turn in whole.split("<|assistant|>")[1:]]
        assert tokenizer.decode(answers, skip_special=False) == "".join(said)
