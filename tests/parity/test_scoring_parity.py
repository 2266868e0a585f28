"""One truth for scoring: what the torch `Decoder` trains on is what the engine scores, for the same weights of every family.

The trainer sees all positions in parallel and has no cache; the engine scores through blocks, in chunks, after cached context.
Native and float32 throughout, logits of size 1 to 30: log-probabilities within 1e-4, absolute. Measured: at most 4e-5.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from quire.config import CacheConfig, DType, EngineConfig, KVFormat, SchedulerConfig
from quire.engine.core import EngineCore
from quire.engine.loading import Origin, build_core
from quire.engine.prompts import ParsedPrompt
from quire.engine.scores import Score, score_on
from quire.executors.native import NativeExecutor, available_isas
from quire.executors.options import ExecutorOptions
from quire.executors.protocol import Executor, kv_layout
from quire.executors.torch_decoder import Decoder
from quire.text.tokenizer import Tokenizer
from quire.verify.torch_scorer import TorchScorer
from support.checkpoints import VOCAB
from support.fake_engine import write_tokenizer
from support.pair import Pair

pytestmark = pytest.mark.skipif(not available_isas(), reason="the native core is not compiled here")

BOUND = 1e-4
NUM_TOKENS, NUM_GIVEN = 80, 70
TEXT = tuple(int(token) for token in np.random.default_rng(3).integers(0, VOCAB, NUM_TOKENS))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory: Path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory)
    return Tokenizer.from_directory(directory)


@pytest.fixture
def executor(pair: Pair) -> Executor:
    spec, layout = pair.checkpoint.spec, kv_layout(pair.checkpoint.spec, 32, KVFormat.FLOAT32)
    return NativeExecutor(
        spec, pair.checkpoint.weights, ExecutorOptions(layout=layout, num_blocks=12, dtype=DType.FLOAT32, threads=1)
    )


def core_of(executor: Executor, tokenizer: Tokenizer, budget: int = 512) -> EngineCore:
    config = EngineConfig(
        cache=CacheConfig(format=KVFormat.FLOAT32),
        scheduler=SchedulerConfig(max_num_batched_tokens=budget),
        max_context=executor.spec.max_context,
    )
    return build_core(executor, tokenizer, config, Origin(weights_fingerprint=b"", model_context=executor.spec.max_context))


def scored(core: EngineCore, num_context: int = 0) -> Score:
    return score_on(core, ParsedPrompt(token_ids=TEXT, num_context_tokens=num_context), "scored")


def test_scores_equal_the_trainers_log_probabilities(pair: Pair, executor: Executor, tokenizer: Tokenizer) -> None:
    expected = TorchScorer(pair.checkpoint, threads=1).logprobs(TEXT)
    found = scored(core_of(executor, tokenizer))
    np.testing.assert_allclose(np.array(found.logprobs[1:], dtype=np.float64), expected, rtol=0, atol=BOUND)


def test_mean_score_is_the_trainers_loss(pair: Pair, executor: Executor, tokenizer: Tokenizer) -> None:
    decoder = Decoder.from_weights(pair.checkpoint.spec, pair.checkpoint.weights)
    tokens = torch.tensor([TEXT])
    with torch.no_grad():
        loss = cross_entropy(decoder(tokens, use_cache=False)[0][0, :-1], tokens[0, 1:])
    assert scored(core_of(executor, tokenizer)).loss == pytest.approx(float(loss), rel=0, abs=1e-5)


def test_no_circumstance_changes_a_bit_of_a_score(executor: Executor, tokenizer: Tokenizer) -> None:
    whole = scored(core_of(executor, tokenizer))
    assert whole.num_cached_tokens == 0
    for budget in (1, 7, 64):
        core = core_of(executor, tokenizer, budget)
        cold, again, warm = scored(core), scored(core), scored(core, NUM_GIVEN)
        assert cold.logprobs == again.logprobs == whole.logprobs
        assert warm.logprobs == (None,) * NUM_GIVEN + whole.logprobs[NUM_GIVEN:]
        assert (again.num_cached_tokens, warm.num_cached_tokens) == (0, NUM_GIVEN - 1)
