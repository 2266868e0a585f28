"""Teacher forcing on packed documents is teacher forcing on each document alone; steps depend on nothing but what is saved.

Gradients are read from AdamW's first moment after one step, so they are what the optimizer really got.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - what every torch program calls it

from quire.config import DType
from quire.errors import ExecutorError
from quire.executors.torch_decoder import Decoder
from quire.models.spec import ModelSpec
from quire.train.attention import DocumentAttention
from quire.train.checkpoint import load_state, save_state
from quire.train.encoding import EncodedDocuments
from quire.train.flops import training_flops
from quire.train.loop import Trainer
from quire.train.packing import arrange, pack
from quire.train.recipe import OptimizerKind, Recipe
from support.train_world import documents_of, exact_recipe, gradients_of_first_step, run_steps, small_decoder, small_spec

LENGTHS = [17, 2, 9, 16, 5, 11]
NUM_TOKENS = sum(LENGTHS)
BOTH = pytest.mark.parametrize("kind", list(OptimizerKind), ids=lambda kind: kind.value)


def trainer_of(
    documents: EncodedDocuments, recipe: Recipe, spec: ModelSpec | None = None, held_out: EncodedDocuments | None = None
) -> Trainer:
    return Trainer(small_decoder(spec or small_spec()), recipe, documents, held_out)


def loss_alone(decoder: Decoder, documents: EncodedDocuments) -> Tensor:
    """Returns the mean over all learned tokens, of documents that `forward` sees one by one."""
    total, num_learned = torch.zeros(()), 0
    for start, end in zip(documents.starts, documents.starts[1:], strict=False):
        token_ids = torch.from_numpy(documents.token_ids[start:end].astype(np.int64))
        rows = torch.from_numpy(documents.is_learned[start + 1 : end]).nonzero()[:, 0]
        logits, _ = decoder(token_ids[None], use_cache=False)
        total = total + F.cross_entropy(logits[0, rows], token_ids[1:][rows], reduction="sum")
        num_learned += len(rows)
    return total / num_learned


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "mistral", "gemma3_text", "olmo2"])
def test_packed_loss_and_gradients_are_those_of_the_documents_one_by_one(family: str) -> None:
    changes = {"sliding_window": 6} if family in ("mistral", "gemma3_text") else {}
    spec, documents = small_spec(family, **changes), documents_of(LENGTHS)
    decoder = small_decoder(spec)
    loss = loss_alone(decoder, documents)
    loss.backward()
    trainer = trainer_of(documents, exact_recipe(batch_tokens=NUM_TOKENS + 7), spec)
    gradients = gradients_of_first_step(trainer)
    reported = run_steps(trainer_of(documents, exact_recipe(batch_tokens=NUM_TOKENS + 7), spec), 1)[0]
    assert reported.loss == pytest.approx(float(loss.detach()), rel=1e-5)
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None
        largest = float(parameter.grad.abs().max())
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=0, atol=2e-5 * max(largest, 1e-2), msg=name)


@pytest.mark.parametrize("changed", range(len(LENGTHS)))
def test_another_document_in_the_batch_changes_no_bit_of_the_others(changed: int) -> None:
    spec = small_spec()
    decoder, documents = small_decoder(spec), documents_of(LENGTHS)
    token_ids = documents.token_ids.copy()
    token_ids[documents.starts[changed] : documents.starts[changed + 1]] = 3
    other = EncodedDocuments(token_ids=token_ids, is_learned=documents.is_learned, starts=documents.starts)
    one, two = (packed_logits(decoder, each) for each in (documents, other))
    order = np.argsort([-length for length in LENGTHS], kind="stable")
    is_changed = torch.from_numpy(np.repeat(order == changed, np.array(LENGTHS)[order]))
    assert torch.equal(one[~is_changed], two[~is_changed])
    assert not torch.equal(one[is_changed], two[is_changed])


def packed_logits(decoder: Decoder, documents: EncodedDocuments) -> Tensor:
    batch = pack(documents, np.arange(len(LENGTHS)), NUM_TOKENS)
    attend = DocumentAttention(decoder.spec, arrange(batch.lengths, NUM_TOKENS), torch.device("cpu"))
    ids, positions = torch.from_numpy(batch.token_ids)[None], torch.from_numpy(batch.positions)[None]
    with torch.no_grad():
        return decoder.logits(decoder.hidden(ids, positions, attend))[0]


def test_accumulated_batches_give_the_gradient_of_one_large_batch() -> None:
    documents = documents_of([16] * 8)
    large = trainer_of(documents, exact_recipe(batch_tokens=128))
    small = trainer_of(documents, exact_recipe(batch_tokens=32, accumulate=4))
    expected, gradients = gradients_of_first_step(large), gradients_of_first_step(small)
    assert small.tokens == large.tokens == 128
    for name, value in expected.items():
        torch.testing.assert_close(gradients[name], value, rtol=0, atol=2e-5 * max(float(value.abs().max()), 1e-2), msg=name)


@BOTH
@pytest.mark.parametrize("precision", list(DType), ids=lambda dtype: dtype.value)
def test_it_learns_with_either_optimizer_in_either_precision(kind: OptimizerKind, precision: DType) -> None:
    recipe = exact_recipe(optimizer=kind, precision=precision, learning_rate=1e-2, steps=40)
    trainer = trainer_of(documents_of([16] * 4), recipe)
    reports = run_steps(trainer)
    assert [report.step for report in reports] == list(range(1, 41))
    assert reports[-1].loss < 0.5 * reports[0].loss
    assert all(value.dtype is torch.float32 for value in trainer.decoder.state_dict().values())


def test_bfloat16_products_stay_near_float32() -> None:
    documents = documents_of(LENGTHS)
    exact, rounded = (
        run_steps(trainer_of(documents, exact_recipe(precision=precision, batch_tokens=NUM_TOKENS)), 1)[0] for precision in DType
    )
    assert rounded.loss != exact.loss
    assert rounded.loss == pytest.approx(exact.loss, rel=0.02)
    assert rounded.gradient_norm == pytest.approx(exact.gradient_norm, rel=0.05)


@BOTH
def test_a_run_continued_from_a_saved_state_ends_with_the_same_bits(kind: OptimizerKind, tmp_path: Path) -> None:
    recipe = exact_recipe(optimizer=kind, precision=DType.BFLOAT16, steps=12, accumulate=2, warmup_steps=3, weight_decay=0.1)
    documents = documents_of([9, 30, 14, 22, 40, 3, 17, 25])
    whole = trainer_of(documents, recipe)
    run_steps(whole)
    interrupted = trainer_of(documents, recipe)
    run_steps(interrupted, 5)
    save_state(interrupted.state({}), tmp_path / "state")
    continued = trainer_of(documents, recipe, small_spec())
    continued.restore(load_state(tmp_path / "state", "cpu"))
    assert [report.step for report in run_steps(continued)] == list(range(6, 13))
    assert (continued.step, continued.tokens) == (whole.step, whole.tokens)
    assert_same_bits(continued, whole)


def assert_same_bits(one: Trainer, other: Trainer) -> None:
    for ours, theirs in ((one.state({}).model, other.state({}).model), (one.state({}).optimizer, other.state({}).optimizer)):
        assert ours.keys() == theirs.keys()
        assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []


def test_more_steps_than_data_go_through_it_again_and_again() -> None:
    documents = documents_of([16] * 8)
    assert trainer_of(documents, exact_recipe(batch_tokens=32)).num_steps == 4
    assert trainer_of(documents, exact_recipe(batch_tokens=32, epochs=3, accumulate=2)).num_steps == 6
    trainer = trainer_of(documents, exact_recipe(batch_tokens=32, steps=11))
    assert run_steps(trainer)[-1].tokens == 11 * 32


def test_validation_is_the_mean_over_held_out_documents_and_teaches_nothing() -> None:
    held_out = documents_of([7, 20, 12, 3], seed=5)
    trainer = trainer_of(documents_of(LENGTHS), exact_recipe(steps=5, validate_every=2), held_out=held_out)
    plain = trainer_of(documents_of(LENGTHS), exact_recipe(steps=5, validate_every=2))
    reports, unvalidated = run_steps(trainer), run_steps(plain)
    assert [report.step for report in reports if report.validation_loss is not None] == [2, 4, 5]
    assert reports[-1].validation_loss == pytest.approx(float(loss_alone(trainer.decoder, held_out).detach()), rel=1e-5)
    assert [report.validation_loss for report in unvalidated] == [None] * 5
    assert_same_bits(trainer, plain)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_before_the_weights_move(poison: float) -> None:
    trainer = trainer_of(documents_of(LENGTHS), exact_recipe(steps=3))
    run_steps(trainer, 1)
    with torch.no_grad():
        trainer.decoder.final_norm.weight[0] = poison
    before = {name: value.clone() for name, value in trainer.decoder.state_dict().items()}
    with pytest.raises(ExecutorError, match=r"diverged .* in step 2.*lower --learning-rate"):
        run_steps(trainer)
    assert trainer.step == 1
    after = trainer.decoder.state_dict()
    assert all(torch.equal(after[name].nan_to_num(7), value.nan_to_num(7)) for name, value in before.items())


def test_the_head_may_be_taken_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_steps(trainer_of(documents_of(LENGTHS), exact_recipe(batch_tokens=NUM_TOKENS)), 1)[0]
    monkeypatch.setattr("quire.train.loop.HEAD_ELEMENTS", 61 * 3)
    sliced = run_steps(trainer_of(documents_of(LENGTHS), exact_recipe(batch_tokens=NUM_TOKENS)), 1)[0]
    assert sliced.loss == pytest.approx(whole.loss, rel=1e-6)
    assert sliced.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-5)


@pytest.mark.parametrize(("lengths", "window"), [([5], None), ([5, 3], None), ([9], 4)])
def test_the_arithmetic_of_a_step_is_counted(lengths: Sequence[int], window: int | None) -> None:
    spec = small_spec("mistral", sliding_window=window)
    batch = pack(documents_of(lengths), np.arange(len(lengths)), 16)
    query, kv = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    matrices = spec.hidden_size * (2 * query + 2 * kv) + 3 * spec.hidden_size * spec.ffn_size
    pairs = sum(min(position + 1, window or length) for length in lengths for position in range(length))
    forward = 2 * spec.num_layers * (sum(lengths) * matrices + 2 * pairs * query)
    forward += 2 * batch.num_learned * spec.hidden_size * spec.vocab_size
    assert training_flops(spec, batch) == 3 * forward
