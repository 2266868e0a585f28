"""The engine without text: token ids in, greedy token ids out. For replays and benchmarks, which need no tokenizer."""

from __future__ import annotations

import time
from collections.abc import Sequence

from quire.engine.core import EngineCore
from quire.engine.prompts import ParsedPrompt, Submission
from quire.engine.watch import StepWatcher
from quire.errors import ExecutorError, failure_of
from quire.executors.protocol import Executor
from quire.request import Request, RequestOutput, SamplingParams
from quire.sched.scheduler import Scheduler


class TokenLoop:
    """Greedy requests on an `EngineCore` without a tokenizer; `requests` holds the unfinished ones.

    `watcher` is called after every step.
    """

    def __init__(self, executor: Executor, scheduler: Scheduler, watcher: StepWatcher | None = None) -> None:
        self.requests: dict[str, Request] = {}
        self._core = EngineCore(executor, None, lambda: scheduler, time.perf_counter)
        self._core.watcher = watcher

    def submit(
        self, request_id: str, prompt: Sequence[int], num_new: int, *, priority: int = 0, logprobs: int | None = None
    ) -> Request:
        """Queues a greedy request for exactly `num_new` tokens; raises what the core raises.

        Without `logprobs` its tokens come from `Executor.argmax`, and no logits exist.
        """
        sampling = SamplingParams(temperature=0, max_tokens=num_new, ignore_eos=True, logprobs=logprobs)
        submission = Submission(
            request_id=request_id, prompt=ParsedPrompt(token_ids=tuple(prompt)), sampling=sampling, priority=priority
        )
        request = self._core.submit(submission).states[0].request
        self.requests[request_id] = request
        return request

    def step(self) -> None:
        """Computes one step.

        Raises ExecutorError when there is nothing to compute or a request failed, and IntegrityError when the books are wrong.
        """
        if not self._core.has_work:
            raise ExecutorError("there is nothing to compute", next_step="Submit a request first.")
        for event in self._core.step():
            if isinstance(event, RequestOutput):
                del self.requests[event.request_id]
                error = event.outputs[0].error
                if error is not None:
                    raise failure_of(error)
        self._require_integrity()

    def run(self) -> None:
        """Computes steps until every request is finished."""
        while self.requests:
            self.step()

    def abort_all(self) -> None:
        """Ends what is unfinished and checks that the books balance."""
        self._core.close()
        self.requests.clear()
        self._require_integrity()

    def _require_integrity(self) -> None:
        if self._core.integrity_errors:
            raise self._core.integrity_errors[0]
