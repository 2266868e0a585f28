"""An engine that answers with a script: the tokens of an answer are chosen by the test, and everything behind them is real."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from quire.executors.protocol import Float32Array, StepBatch
from quire.request import CompletionOutput, RequestOutput
from quire.text.tokenizer import Tokenizer
from support.fake_engine import FAKE_SPEC, FakeExecutor, make_core, submission


class ScriptedExecutor(FakeExecutor):
    """Answers a prompt of one token with `script`, whatever was drawn before: positions decide."""

    def __init__(self, script: Sequence[int], vocab_size: int, num_blocks: int = 64) -> None:
        super().__init__(num_blocks)
        self.spec = replace(FAKE_SPEC, vocab_size=vocab_size)
        self._script = script

    def _row(self, batch: StepBatch, row: int) -> Float32Array:
        logits = np.zeros(self.spec.vocab_size, dtype=np.float32)
        position = int(batch.positions[row])
        logits[self._script[min(position, len(self._script) - 1)]] = 3.0
        return logits


def answer(
    tokenizer: Tokenizer, script: Sequence[int], prompt_id: int, *, num_blocks: int = 64, **params: object
) -> tuple[CompletionOutput, list[CompletionOutput]]:
    """Returns the final completion and the deltas that streamed it."""
    core = make_core(ScriptedExecutor(script, tokenizer.vocab_size, num_blocks), tokenizer)
    params = {"max_tokens": len(script), "ignore_eos": False} | params
    group = core.submit(submission("a", (prompt_id,), **params))
    deltas: list[CompletionOutput] = []
    while core.has_work:
        for event in core.step():
            if isinstance(event, RequestOutput):
                return event.outputs[0], deltas
            deltas.append(group.delta(event).outputs[0])
    raise ValueError("the request never ended")
