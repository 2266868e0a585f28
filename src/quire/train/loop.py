"""Teacher forcing: every position of every document predicts its next token at once, and the gradients update the weights.

    batch -> hidden [1, N, E] -> rows that predict a learned token [R, E] -> logits [R, V] -> cross-entropy -> gradients -> step

There is no KV cache: all K/V of a step are used once, and the weights change between steps. A step is a function of (seed, step,
weights, moments), so a run that continues from a saved state takes the same steps as an uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the usual name in torch programs

from quire.config import DType
from quire.errors import ExecutorError
from quire.executors.torch_decoder import Decoder
from quire.train.attention import DocumentAttention
from quire.train.capacity import HEAD_ELEMENTS
from quire.train.checkpoint import TrainingState
from quire.train.encoding import EncodedDocuments
from quire.train.flops import training_flops
from quire.train.optimizer import Optimizer, learning_rate
from quire.train.packing import IGNORED, BatchOrder, PackedBatch, arrange
from quire.train.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """One finished step: mean loss in nats over its learned tokens, gradient norm before clipping, speed, and totals of the run.

    `tokens` and `seconds` count from the start of the run, across interruptions; `flops` are those of this step.
    """

    step: int
    num_steps: int
    tokens: int
    seconds: float
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens_per_second: float
    seconds_of_step: float
    flops: float
    validation_loss: float | None


class Trainer:
    """Trains a decoder on documents, step by step."""

    def __init__(self, decoder: Decoder, recipe: Recipe, learned: EncodedDocuments, held_out: EncodedDocuments | None) -> None:
        self.decoder, self._recipe, self._device = decoder, recipe, torch.device(recipe.device)
        self._order = BatchOrder(learned, recipe.batch_tokens, recipe.seed)
        self._held_out = None if held_out is None else BatchOrder(held_out, recipe.batch_tokens, recipe.seed)
        self._optimizer = Optimizer(decoder, recipe)
        self.num_steps = recipe.steps or max(1, self._order.num_batches(recipe.epochs) // recipe.accumulate)
        self.learns_everything = bool(learned.is_learned.all())
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        if recipe.compile:
            for layer in decoder.layers:
                layer.compile(dynamic=False)

    def restore(self, state: TrainingState) -> None:
        """Continues from `state`."""
        self.decoder.load_state_dict(dict(state.model))
        self._optimizer.restore(state.optimizer)
        self.step, self.tokens, self.seconds = state.step, state.tokens, state.seconds

    def state(self, identity: dict[str, str]) -> TrainingState:
        """Returns everything needed to continue."""
        return TrainingState(
            step=self.step,
            tokens=self.tokens,
            seconds=self.seconds,
            identity=identity,
            model=self.decoder.state_dict(),
            optimizer=self._optimizer.state(),
        )

    def run(self, on_step: Callable[[StepReport], None], should_stop: Callable[[], bool]) -> None:
        """Takes the remaining steps; stops between two of them if `should_stop()`."""
        while self.step < self.num_steps and not should_stop():
            on_step(self._step())

    def validate(self) -> float | None:
        """Returns the mean loss over all held-out documents, or None if there are none."""
        if self._held_out is None:
            return None
        batches = [self._held_out.batch(index) for index in range(self._held_out.num_batches(1))]
        with torch.no_grad():
            total = sum(float(self._loss_sum(batch)) for batch in batches)
        return total / sum(batch.num_learned for batch in batches)

    def _step(self) -> StepReport:
        started = time.perf_counter()
        first = self.step * self._recipe.accumulate
        batches = [self._order.batch(first + index) for index in range(self._recipe.accumulate)]
        loss = self._backward(batches)
        rate = learning_rate(self._recipe, self.step, self.num_steps)
        norm = self._optimizer.clip()
        self._check_finite(loss, norm)
        self._optimizer.step(rate)
        seconds, num_tokens = time.perf_counter() - started, sum(sum(batch.lengths) for batch in batches)
        self.step, self.tokens, self.seconds = self.step + 1, self.tokens + num_tokens, self.seconds + seconds
        is_due = self.step % self._recipe.validate_every == 0 or self.step == self.num_steps
        return StepReport(
            step=self.step,
            num_steps=self.num_steps,
            tokens=self.tokens,
            seconds=self.seconds,
            loss=loss,
            learning_rate=rate,
            gradient_norm=norm,
            tokens_per_second=num_tokens / seconds,
            seconds_of_step=seconds,
            flops=sum(training_flops(self.decoder.spec, batch) for batch in batches),
            validation_loss=self.validate() if is_due else None,
        )

    def _check_finite(self, loss: float, norm: float) -> None:
        """Raises ExecutorError before a step that would make the weights NaN or infinite."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise ExecutorError(
                "training has diverged",
                given=f"loss {loss} and gradient norm {norm} in step {self.step + 1}",
                next_step="Start another run with a lower --learning-rate, more --warmup-steps or --precision float32.",
            )

    def _backward(self, batches: Sequence[PackedBatch]) -> float:
        """Adds up the gradients of the mean loss over all batches' learned tokens; returns that loss."""
        num_learned = sum(batch.num_learned for batch in batches)
        total = 0.0
        for batch in batches:
            loss = self._loss_sum(batch) / num_learned
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    def _loss_sum(self, batch: PackedBatch) -> Tensor:
        """Returns the cross-entropy summed over the learned tokens; the head runs on the rows that predict them only."""
        token_ids, positions, targets = (
            torch.from_numpy(array).to(self._device) for array in (batch.token_ids, batch.positions, batch.targets)
        )
        attend = DocumentAttention(self.decoder.spec, arrange(batch.lengths, len(batch.token_ids)), self._device)
        rows = (targets != IGNORED).nonzero()[:, 0]
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._recipe.precision is DType.BFLOAT16):
            hidden = self.decoder.hidden(token_ids[None], positions[None], attend)[0].index_select(0, rows)
            rows_at_once = max(1, HEAD_ELEMENTS // self.decoder.spec.vocab_size)
            losses = [
                self._head_loss(x, y)
                for x, y in zip(torch.split(hidden, rows_at_once), torch.split(targets[rows], rows_at_once), strict=True)
            ]
        return torch.stack(losses).sum()

    def _head_loss(self, x: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self.decoder.logits(x).float(), targets, reduction="sum")
