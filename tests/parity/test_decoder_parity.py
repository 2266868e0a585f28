"""The torch `Decoder` learns from the loss that `transformers` computes, for the same weights of every family.

Loss: mean cross entropy of every next token, float32, within 1e-5. Measured: at most 1e-6 at losses from 9 to 33.
Gradient of the token table: within 2e-5 of its largest element. Measured: at most 4e-6.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from quire.executors.torch_decoder import Decoder
from support.checkpoints import VOCAB
from support.pair import Pair

LOSS_BOUND = 1e-5
GRADIENT_BOUND = 2e-5
NUM_ROWS, NUM_TOKENS = 3, 80


@pytest.fixture
def input_ids() -> torch.Tensor:
    return torch.randint(VOCAB, (NUM_ROWS, NUM_TOKENS), generator=torch.Generator().manual_seed(1))


def decoder_of(pair: Pair) -> Decoder:
    return Decoder.from_weights(pair.checkpoint.spec, pair.checkpoint.weights)


def loss_of(decoder: Decoder, input_ids: torch.Tensor) -> torch.Tensor:
    logits, _ = decoder(input_ids, use_cache=False)
    return cross_entropy(logits[:, :-1].flatten(0, 1), input_ids[:, 1:].flatten())


def test_teacher_forced_loss_equals_that_of_transformers(pair: Pair, input_ids: torch.Tensor) -> None:
    with torch.no_grad():
        expected = pair.model(input_ids, labels=input_ids, use_cache=False).loss
        actual = loss_of(decoder_of(pair), input_ids)
    assert float(expected) > 5
    assert float(actual) == pytest.approx(float(expected), rel=0, abs=LOSS_BOUND)


def test_gradient_of_the_token_table_equals_that_of_transformers(pair: Pair, input_ids: torch.Tensor) -> None:
    decoder, theirs = decoder_of(pair), pair.model.get_input_embeddings().weight
    loss_of(decoder, input_ids).backward()
    expected, *_ = torch.autograd.grad(pair.model(input_ids, labels=input_ids, use_cache=False).loss, [theirs])
    torch.testing.assert_close(decoder.embed.weight.grad, expected, rtol=0, atol=GRADIENT_BOUND * float(expected.abs().max()))


def test_growing_past_gives_the_logits_of_one_pass(pair: Pair, input_ids: torch.Tensor) -> None:
    decoder = decoder_of(pair)
    with torch.no_grad():
        whole, _ = decoder(input_ids, use_cache=False)
        logits, past_kvs = decoder(input_ids[:, :50])
        parts = [logits]
        for start, stop in ((50, 63), *((i, i + 1) for i in range(63, NUM_TOKENS))):
            logits, past_kvs = decoder(input_ids[:, start:stop], past_kvs=past_kvs)
            parts.append(logits)
    assert float((torch.cat(parts, dim=1) - whole).abs().max() / whole.abs().max()) <= 1e-5
