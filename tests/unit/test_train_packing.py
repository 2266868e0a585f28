"""Packed batches: nothing is lost, nothing is seen twice, the order needs no memory, and attention keeps documents apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.errors import ConfigError
from quire.executors.reference_math import scoring_of
from quire.executors.torch_decoder import attention
from quire.train.attention import DocumentAttention
from quire.train.packing import IGNORED, BatchOrder, arrange, pack, plan_epoch
from support.train_world import documents_of, small_spec

LENGTHS = st.lists(st.integers(2, 40), min_size=1, max_size=60)
SEEDS = st.integers(0, 2**32)


@given(lengths=LENGTHS, capacity=st.integers(40, 120), seed=SEEDS)
def test_every_document_occurs_once_an_epoch_and_no_batch_overflows(lengths: list[int], capacity: int, seed: int) -> None:
    plan = plan_epoch(np.array(lengths), capacity, (seed, 0))
    assert sorted(np.concatenate(plan)) == list(range(len(lengths)))
    assert all(sum(lengths[document] for document in batch) <= capacity for batch in plan)


def test_more_documents_than_are_looked_at_together_still_occur_once() -> None:
    lengths = np.random.default_rng(0).integers(2, 50, 3000)
    plan = plan_epoch(lengths, 200, (1, 0))
    assert sorted(np.concatenate(plan)) == list(range(3000))
    fill = [lengths[batch].sum() / 200 for batch in plan]
    assert np.mean(fill) > 0.97


@settings(max_examples=40)
@given(lengths=LENGTHS, seed=SEEDS, index=st.integers(0, 30))
def test_a_batch_is_known_from_seed_and_index_alone(lengths: list[int], seed: int, index: int) -> None:
    documents = documents_of(lengths)
    walked, jumped = BatchOrder(documents, 64, seed), BatchOrder(documents, 64, seed)
    for before in range(index):
        walked.batch(before)
    one, other = walked.batch(index), jumped.batch(index)
    for name in ("token_ids", "positions", "targets"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    documents = documents_of([8] * 64)
    order, num_batches = BatchOrder(documents, 64, seed=1), BatchOrder(documents, 64, seed=1).num_batches(1)
    first = [order.batch(index).token_ids for index in range(num_batches)]
    second = [order.batch(num_batches + index).token_ids for index in range(num_batches)]
    other = [BatchOrder(documents, 64, seed=2).batch(index).token_ids for index in range(num_batches)]
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert np.array_equal(np.sort(np.ravel(first)), np.sort(np.ravel(second)))
    assert order.num_batches(3) == 3 * num_batches


@given(lengths=st.lists(st.integers(2, 12), min_size=1, max_size=5), seed=SEEDS)
def test_each_position_predicts_the_next_token_of_its_own_document(lengths: list[int], seed: int) -> None:
    documents = documents_of(lengths, seed=seed)
    batch = pack(documents, np.arange(len(lengths)), capacity=60)
    at = 0
    for document in np.argsort([-length for length in lengths], kind="stable"):
        start, end = documents.starts[document], documents.starts[document + 1]
        ids, is_learned = documents.token_ids[start:end], documents.is_learned[start:end]
        here = slice(at, at + len(ids))
        assert batch.token_ids[here].tolist() == ids.tolist()
        assert batch.positions[here].tolist() == list(range(len(ids)))
        expected = [int(ids[i + 1]) if is_learned[i + 1] else IGNORED for i in range(len(ids) - 1)]
        assert batch.targets[here].tolist() == [*expected, IGNORED]
        at += len(ids)
    assert set(batch.targets[at:]) <= {IGNORED}
    assert batch.num_learned == int((batch.targets != IGNORED).sum()) > 0


@given(lengths=LENGTHS, num_filling=st.integers(0, 20))
def test_the_grid_gives_every_token_one_place_and_every_document_one_row(lengths: list[int], num_filling: int) -> None:
    lengths = sorted(lengths, reverse=True)
    grid = arrange(lengths, sum(lengths) + num_filling)
    assert grid.index[grid.place].tolist() == list(range(sum(lengths) + num_filling))
    assert sum(rows * length for rows, length in grid.groups) == len(grid.index)
    owner = np.concatenate([np.repeat(range(len(lengths)), lengths), len(lengths) + np.arange(num_filling)]).astype(int)
    at = 0
    for rows, length in grid.groups:
        table = owner[grid.index[at : at + rows * length]].reshape(rows, length)
        assert (table == table[:, :1]).all()
        assert len(set(table[:, 0])) == rows
        at += rows * length


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 30), min_size=1, max_size=8),
    num_filling=st.integers(0, 5),
    family=st.sampled_from(["llama", "mistral"]),
)
def test_grouped_attention_and_its_gradient_are_those_of_each_document_alone(
    lengths: list[int], num_filling: int, family: str
) -> None:
    lengths = sorted(lengths, reverse=True)
    spec = small_spec(family, **({"sliding_window": 7} if family == "mistral" else {}))
    num_tokens = sum(lengths) + num_filling
    generator = torch.Generator().manual_seed(num_tokens)
    shapes = [(1, num_heads, num_tokens, spec.head_dim) for num_heads in (spec.num_heads, spec.num_kv_heads, spec.num_kv_heads)]
    packed = [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]
    separate = [x.detach().clone().requires_grad_() for x in packed]
    upstream = torch.randn(1, spec.num_heads, sum(lengths), spec.head_dim, generator=generator)

    mixed = DocumentAttention(spec, arrange(lengths, num_tokens), torch.device("cpu"))(0, *packed)[:, :, : sum(lengths)]
    parts = [x.split([*lengths, num_filling], dim=2)[:-1] for x in separate]
    alone = torch.cat([attention(*part, scoring_of(spec, 0)) for part in zip(*parts, strict=True)], dim=2)
    torch.testing.assert_close(mixed, alone, rtol=0, atol=2e-6)

    for result in (mixed, alone):
        result.backward(upstream)
    for ours, theirs in zip(packed, separate, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=2e-5)


def test_a_document_longer_than_a_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"longer than a batch \(given: 65; limit: 64\)"):
        BatchOrder(documents_of([3, 65]), 64, seed=0)
