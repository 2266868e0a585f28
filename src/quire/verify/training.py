"""One truth for scoring, checked on one model and this machine: what `quire verify --training` runs.

Training scores all positions of a text at once, without a cache; the engine scores it through its blocks, chunk by chunk and
after cached context. Both must say the same:

    trainer     torch Decoder   [0 ................ T)   one pass                        log p(t[i] | t[0..i-1])
    whole       an executor     [0 ................ T)   one step, empty cache           -"-
    chunked     -"-             [0 .. 7)[7 .. 14) ...    many steps                      -"-
    continued   -"-             [cached)[......... T)    `given` context, warm cache     -"- of the rest
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quire.arrays import Float64Array
from quire.config import DType, EngineConfig, ExecutorKind, KVCacheMode, KVFormat, PrefixCache, SchedulerConfig
from quire.engine.core import EngineCore
from quire.engine.loading import build_core, build_executor, open_checkpoint, open_tokenizer, origin_of
from quire.engine.prompts import ParsedPrompt
from quire.engine.resolve import is_native_built, settled
from quire.engine.scores import Score, score_on
from quire.errors import ConfigError, ExecutorUnavailableError
from quire.executors.protocol import Executor
from quire.models.checkpoint import Checkpoint
from quire.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from quire.verify.torch_scorer import TorchScorer


FLOAT32_BOUND = 1e-4  # of the largest difference of a log-probability: another order of sums
BFLOAT16_BOUND = 2e-2  # of the mean one, as a share of the mean log-probability: rounding grows with the logits
MIN_TOKENS = 70  # or two blocks and a bit, if blocks are larger: cached context needs a full block
CHUNK = 7

_TEXTS: Mapping[str, str] = {
    "prose": "The old harbour was quiet in the morning. A boat came in, two men tied it up, and nobody asked where it had been. ",
    "dialogue": "What is the capital of France? Paris is the capital of France. And 17 plus 25? That is 42, as it was before. ",
    "record": '{"name": "Ada", "born": 1815, "languages": ["English", "French"], "is_poet": false, "notes": null}\n',
    "chinese": "\u6cd5\u56fd\u7684\u9996\u90fd\u662f\u5df4\u9ece\u3002\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCheck:
    """Scores of several texts on one executor against the trainer's. Differences are absolute, natural logarithms.

    `loss` is a text's mean negative log-probability. `bounded` names the difference that `bound` limits. `has_same_bits`
    compares with the same executor's whole, cold scores; None where that is not promised or where these are they.
    """

    executor: str
    circumstance: str
    num_texts: int
    num_tokens: int
    num_cached_tokens: int
    max_logprob_difference: float
    mean_logprob_difference: float
    max_loss_difference: float
    mean_loss_difference: float
    bounded: str
    bound: float
    has_same_bits: bool | None

    @property
    def has_passed(self) -> bool:
        found = self.max_logprob_difference if self.bounded == "max" else self.mean_logprob_difference
        return found <= self.bound and self.has_same_bits is not False


def verify_training(model: str | Path | None, config: EngineConfig) -> Iterator[TrainingCheck]:
    """Yields the checks of the native executor, where it is compiled, and of the chosen one, as they are made.

    Raises what loading the model raises, ExecutorUnavailableError where torch is not installed, and ConfigError for a
    context too short for the texts.
    """
    cache = replace(config.cache, mode=KVCacheMode.PAGED, prefix_cache=PrefixCache.ON)
    scorer_class = _scorer_class()
    checkpoint, resolved = open_checkpoint(model, replace(config, cache=cache, scheduler=SchedulerConfig()))
    tokenizer = open_tokenizer(checkpoint)
    texts = _texts(checkpoint, resolved, tokenizer)
    scorer = scorer_class(checkpoint, settled(resolved.threads, "threads"))
    expected = [scorer.logprobs(text) for text in texts]
    del scorer  # one copy of the weights at a time
    for kind in _kinds(resolved):
        comparison = _Comparison(checkpoint, replace(resolved, executor=kind), tokenizer, texts, expected)
        yield from comparison.checks()


class _Comparison:
    """One executor and the texts that it scores in three ways; `expected` are the trainer's log-probabilities [T - 1]."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: EngineConfig,
        tokenizer: Tokenizer,
        texts: Sequence[tuple[int, ...]],
        expected: Sequence[Float64Array],
    ) -> None:
        self._checkpoint = checkpoint
        self._config = config
        self._tokenizer = tokenizer
        self._texts = texts
        self._expected = expected
        self._executor: Executor = build_executor(checkpoint, config)

    def checks(self) -> Iterator[TrainingCheck]:
        num_context = self._executor.layout.block_size + 3
        whole = self._scores(self._core(self._config.scheduler))
        yield self._check("whole", whole, None)
        chunked = self._scores(self._core(replace(self._config.scheduler, max_num_batched_tokens=CHUNK)))
        yield self._check(f"chunks of {CHUNK}", chunked, whole)
        warm = self._core(self._config.scheduler)
        self._scores(warm)
        yield self._check("after cached context", self._scores(warm, num_context), whole)

    def _core(self, scheduler: SchedulerConfig) -> EngineCore:
        config = replace(self._config, scheduler=scheduler)
        return build_core(self._executor, self._tokenizer, config, origin_of(self._checkpoint, config))

    def _scores(self, core: EngineCore, num_context: int = 0) -> list[Score]:
        scored = [ParsedPrompt(token_ids=text, num_context_tokens=num_context) for text in self._texts]
        return [score_on(core, each, f"text-{index}") for index, each in enumerate(scored)]

    def _check(self, circumstance: str, scores: Sequence[Score], whole: Sequence[Score] | None) -> TrainingCheck:
        pairs = [_aligned(score, expected) for score, expected in zip(scores, self._expected, strict=True)]
        differences = np.concatenate([np.abs(found - expected) for found, expected in pairs])
        losses = np.array([abs(found.mean() - expected.mean()) for found, expected in pairs])
        mean_logprob = float(np.abs(np.concatenate([expected for _, expected in pairs])).mean())
        is_exact = self._config.dtype is DType.FLOAT32 and self._config.cache.format is KVFormat.FLOAT32
        return TrainingCheck(
            executor=self._executor.name,
            circumstance=circumstance,
            num_texts=len(pairs),
            num_tokens=len(differences),
            num_cached_tokens=sum(score.num_cached_tokens for score in scores),
            max_logprob_difference=float(differences.max()),
            mean_logprob_difference=float(differences.mean()),
            max_loss_difference=float(losses.max()),
            mean_loss_difference=float(losses.mean()),
            bounded="max" if is_exact else "mean",
            bound=FLOAT32_BOUND if is_exact else BFLOAT16_BOUND * mean_logprob,
            has_same_bits=self._has_same_bits(scores, whole),
        )

    def _has_same_bits(self, scores: Sequence[Score], whole: Sequence[Score] | None) -> bool | None:
        if whole is None or self._config.executor is not ExecutorKind.NATIVE:
            return None
        pairs = zip(scores, whole, strict=True)
        return all(score.logprobs[score.num_given_tokens :] == other.logprobs[score.num_given_tokens :] for score, other in pairs)


def _aligned(score: Score, expected: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Returns the scored log-probabilities of a text and the trainer's of the same tokens."""
    found = [logprob for logprob in score.logprobs if logprob is not None]
    return np.array(found), expected[len(expected) - len(found) :]


def _texts(checkpoint: Checkpoint, config: EngineConfig, tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """Returns token ids of the texts that this tokenizer can write, and random ones, all of the same length."""
    num_tokens = max(MIN_TOKENS, 2 * config.cache.block_size + 6)
    max_context = settled(config.max_context, "max_context")
    if max_context <= num_tokens:
        raise ConfigError(
            "the context is too short to compare scores",
            given=max_context,
            limit=f"at least {num_tokens + 1} tokens",
            next_step="Leave max_context out, raise kv_memory, or use a smaller block_size.",
        )
    encoded = [tokenizer.encode(text) for text in _TEXTS.values()]
    texts = [tuple(islice(cycle(token_ids), num_tokens)) for token_ids in encoded if token_ids]
    return [*texts, tuple(np.random.default_rng(0).integers(0, checkpoint.spec.vocab_size, num_tokens).tolist())]


def _kinds(config: EngineConfig) -> list[ExecutorKind]:
    chosen = settled(config.executor, "executor")
    native = [ExecutorKind.NATIVE] if is_native_built() else []
    return list(dict.fromkeys([*native, chosen]))


def _scorer_class() -> type[TorchScorer]:
    try:
        from quire.verify.torch_scorer import TorchScorer
    except ImportError as error:
        raise ExecutorUnavailableError(
            "comparing with the trainer needs torch, which cannot be imported here",
            given=error,
            next_step="Run pip install 'quire[torch]', or leave --training out.",
        ) from error
    return TorchScorer
