"""The engine without text: token ids in, greedy token ids out. For replays and benchmarks, which need no tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from quire.engine.batch import PaddedTables, argmax_slices, build_batch
from quire.errors import ExecutorError
from quire.executors.protocol import ArgmaxTokens, Executor, Float32Array, StepBatch
from quire.request import Request, SamplingParams
from quire.sched.plan import Sampled, StepPlan
from quire.sched.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class TokenStep:
    """What a step did: its plan, and the logits [V] from which each request's new token was chosen."""

    plan: StepPlan
    rows: Mapping[str, Float32Array]


class TokenLoop:
    """Drives a scheduler and an executor by the four lines of the architecture; `requests` holds the unfinished ones."""

    def __init__(self, executor: Executor, scheduler: Scheduler) -> None:
        self.requests: dict[str, Request] = {}
        self._executor = executor
        self._scheduler = scheduler
        self._tables = PaddedTables()

    def submit(self, request_id: str, prompt: Sequence[int], num_new: int, *, priority: int = 0) -> Request:
        """Queues a greedy request for exactly `num_new` tokens; raises what the scheduler raises."""
        sampling = SamplingParams(temperature=0, max_tokens=num_new, ignore_eos=True)
        request = Request(request_id=request_id, prompt_token_ids=tuple(prompt), sampling=sampling, priority=priority)
        self._scheduler.submit(request)
        self.requests[request_id] = request
        return request

    def step(self) -> StepPlan:
        """Computes one step, as the engine does for greedy requests: tokens come from `Executor.argmax`, and no logits exist.

        Raises ExecutorError when nothing can be computed or a logit is not finite.
        """
        plan = self._plan()
        token_ids = [token_id for best in argmax_slices(self._executor, self._batch(plan)) for token_id in _finite(best)]
        sampling = [chunk.request_id for chunk in plan.scheduled if chunk.num_sample_rows]
        self._complete(plan, zip(sampling, token_ids, strict=True))
        return plan

    def step_with_logits(self) -> TokenStep:
        """Computes one step and returns the logits as well; otherwise as `step`."""
        plan = self._plan()
        rows = _sampled_rows(plan, self._executor.run(self._batch(plan)))
        self._complete(plan, [(request_id, _greedy(row)) for request_id, row in rows.items()])
        return TokenStep(plan, rows)

    def run(self) -> None:
        """Computes steps until every request is finished."""
        while self.requests:
            self.step()

    def abort_all(self) -> None:
        """Ends what is unfinished and checks that the books balance."""
        for request_id in tuple(self.requests):
            self._scheduler.abort(request_id)
            del self.requests[request_id]
        self._scheduler.manager.check()

    def _plan(self) -> StepPlan:
        plan = self._scheduler.plan_step()
        if plan is None:
            raise ExecutorError("there is nothing to compute", next_step="Submit a request first.")
        return plan

    def _batch(self, plan: StepPlan) -> StepBatch:
        return build_batch(plan.scheduled, self.requests, self._executor.layout.block_size, self._tables)

    def _complete(self, plan: StepPlan, tokens: Iterable[tuple[str, int]]) -> None:
        sampled = {request_id: [Sampled(token_id)] for request_id, token_id in tokens}
        for request in self._scheduler.complete_step(plan, sampled):
            del self.requests[request.request_id]


def _sampled_rows(plan: StepPlan, logits: Float32Array) -> dict[str, Float32Array]:
    rows: dict[str, Float32Array] = {}
    end = 0
    for chunk in plan.scheduled:
        end += chunk.num_logit_rows
        if chunk.num_sample_rows:
            rows[chunk.request_id] = logits[end - 1]
    return rows


def _finite(best: ArgmaxTokens) -> list[int]:
    if best.num_not_finite.any():
        raise _not_finite()
    token_ids: list[int] = best.token_ids.tolist()
    return token_ids


def _greedy(row: Float32Array) -> int:
    if not np.isfinite(row).all():
        raise _not_finite()
    return int(row.argmax())


def _not_finite() -> ExecutorError:
    return ExecutorError("a logit is not finite", next_step="Check the checkpoint: its weights may be damaged.")
