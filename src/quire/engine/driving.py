"""A core that one program drives alone: greedy requests in, and an error where one of them fails. For replays and benchmarks."""

from __future__ import annotations

from collections.abc import Sequence

from quire.engine.core import EngineCore
from quire.engine.prompts import ParsedPrompt, Submission
from quire.errors import ExecutorError, failure_of
from quire.request import Request, RequestOutput, SamplingParams


def greedy(request_id: str, prompt: Sequence[int], num_new: int, *, priority: int = 0, logprobs: int | None = None) -> Submission:
    """Returns the submission of a greedy request for exactly `num_new` tokens.

    Without `logprobs` its tokens come from `Executor.argmax`, and no logits exist.
    """
    sampling = SamplingParams(temperature=0, max_tokens=num_new, ignore_eos=True, logprobs=logprobs)
    return Submission(request_id=request_id, prompt=ParsedPrompt(token_ids=tuple(prompt)), sampling=sampling, priority=priority)


def begin(core: EngineCore, submission: Submission) -> Request:
    """Queues a submission of one completion and returns its request, to look at; raises what the core raises."""
    return core.submit(submission).states[0].request


def step(core: EngineCore) -> None:
    """Computes one step.

    Raises ExecutorError when there is nothing to compute or a request failed, and IntegrityError when the books are wrong.
    """
    if not core.has_work:
        raise ExecutorError("there is nothing to compute", next_step="Submit a request first.")
    for event in core.step():
        if isinstance(event, RequestOutput) and (error := event.outputs[0].error) is not None:
            raise failure_of(error)
    _require_integrity(core)


def run(core: EngineCore) -> None:
    """Computes steps until every request is finished."""
    while core.has_work:
        step(core)


def close(core: EngineCore) -> None:
    """Ends what is unfinished and checks that the books balance."""
    core.close()
    _require_integrity(core)


def _require_integrity(core: EngineCore) -> None:
    if core.integrity_errors:
        raise core.integrity_errors[0]
