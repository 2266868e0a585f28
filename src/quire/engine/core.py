"""The engine's core: submissions in, one step at a time, exactly one final output each.

    plan    = scheduler.plan_step()              reserves blocks
    drawn   = _run_bisecting(plan.scheduled)     may fail, as may a draw: the culprit is found and fails alone
    ended   = scheduler.complete_step(plan, ..)  only now does anything count

Until the last line nothing has happened that `scheduler.abandon(plan)` cannot put back, but for evicted content and preempted
requests: their blocks may have been written to.

When the forward pass fails, halves of the batch are run to find the request at fault:

    run [a b c d] fails      run [a b] works: nothing there      run [c d] fails: run [c] works, run [d] fails -> d

Running a chunk again is harmless: it writes the same K/V into the same slots, logits do not depend on neighbors, and a draw
is a function of seed and position.

An error of the bookkeeping itself belongs to no request. The books are then begun again, and every request goes on in them as
if it had been preempted, with the same bits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from quire.engine.batch import PaddedTables, argmax_slices, build_batch, logit_slices
from quire.engine.books import Books
from quire.engine.capacity import require_logprob_room
from quire.engine.completion import CompletionState, RequestGroup
from quire.engine.copying import run_copies
from quire.engine.prompts import Submission
from quire.engine.step_events import Progress, PromptProgress, StepEvent
from quire.engine.step_sampler import Joined, StepSampler, StepTokens
from quire.engine.watch import StepRecord, StepWatcher
from quire.errors import DuplicateRequestError, IntegrityError, failure_message, is_failure
from quire.executors.protocol import Executor
from quire.request import FinishReason, Request, RequestOutput
from quire.sample.sampler import require_choice, require_known_tokens
from quire.sched.limits import require_known_prompt
from quire.sched.plan import ScheduledChunk, StepPlan
from quire.sched.scheduler import Scheduler
from quire.text.tokenizer import Tokenizer

_log = logging.getLogger("quire")


class EngineCore:
    """Drives scheduler, executor and output states. No threads; `clock` gives seconds, for metrics and the scheduler's pace.

    Without a tokenizer it computes tokens alone: texts stay empty, no token ends a sequence, and words cannot be looked for.
    """

    def __init__(
        self,
        executor: Executor,
        tokenizer: Tokenizer | None,
        make_scheduler: Callable[[], Scheduler],
        clock: Callable[[], float],
    ) -> None:
        self.executor = executor
        self.tokenizer = tokenizer
        self.watcher: StepWatcher | None = None
        self._clock = clock
        self._books = Books(make_scheduler)
        self._groups: dict[str, RequestGroup] = {}
        self._states: dict[str, CompletionState] = {}
        self._tables = PaddedTables()
        self._ended: list[str] = []  # since the last record; empty without a watcher

    @property
    def scheduler(self) -> Scheduler:
        return self._books.scheduler

    @property
    def integrity_errors(self) -> list[IntegrityError]:
        """What was found wrong in the bookkeeping while nothing ran, and repaired."""
        return self._books.errors

    @property
    def has_work(self) -> bool:
        return bool(self._groups)

    @property
    def request_ids(self) -> tuple[str, ...]:
        """The submissions without a final output yet, oldest first."""
        return tuple(self._groups)

    @property
    def requests(self) -> tuple[Request, ...]:
        """The unfinished requests of all submissions, to look at between two steps."""
        return tuple(state.request for state in self._states.values())

    def check(self, submission: Submission) -> RequestGroup:
        """Returns the group of a submission, to `admit`. Changes nothing, so any thread may call it.

        Raises the RequestError for which a submission is refused, whatever else is queued.
        """
        vocab_size = self.executor.spec.vocab_size
        require_known_tokens(submission.sampling, vocab_size)
        require_known_prompt(submission.prompt.token_ids, vocab_size)
        group = RequestGroup(submission, self.tokenizer, self._clock())
        require_choice(submission.sampling, vocab_size, *group.bans())
        self.scheduler.limits.check(group.states[0].request)
        require_logprob_room(submission.sampling, len(submission.prompt.token_ids))
        return group

    def submit(self, submission: Submission) -> RequestGroup:
        """Checks and queues a submission and returns its group, to look at. Raises as `check` and `admit`."""
        return self.admit(self.check(submission))

    def admit(self, group: RequestGroup) -> RequestGroup:
        """Queues a checked group and returns it; raises DuplicateRequestError, and keeps nothing, if its id is in use."""
        if group.request_id in self._groups or any(state.request.request_id in self._states for state in group.states):
            raise DuplicateRequestError(
                "a request with this id is in progress", given=group.request_id, next_step="Use another request id."
            )
        queued: list[str] = []
        try:
            for state in group.states:
                self.scheduler.submit(state.request)
                queued.append(state.request.request_id)
        except BaseException:
            for request_id in queued:
                self.scheduler.abort(request_id)
            raise
        self._groups[group.request_id] = group
        self._states |= {state.request.request_id: state for state in group.states}
        return group

    def abort(self, request_id: str) -> RequestOutput | None:
        """Ends a request where it is and returns its final output; its computed prefix stays cached. None if unknown."""
        group = self._groups.get(request_id)
        if group is None:
            return None
        try:
            for state in group.states:
                if self.scheduler.abort(state.request.request_id) is not None:
                    state.end()
                    self._close(state.request)
        except BaseException as error:
            request_ids = [state.request.request_id for state in group.states]
            self._begin_again(error, [each for each in request_ids if each in self._states])
        if not self._groups:
            self._books.check_idle()
        return group.output()

    def close(self) -> None:
        """Ends every request and checks the books from end to end: what is wrong is reported in `integrity_errors`."""
        for request_id in self.request_ids:
            self.abort(request_id)
        self._books.check()

    def step(self) -> list[StepEvent]:
        """Computes one step and returns what it brought; an empty list also when there is nothing to do.

        An error that belongs to one request ends that request; the others lose a step, but no token changes.
        """
        began_s = self._clock()
        try:
            plan = self.scheduler.plan_step()
        except BaseException as error:
            return self._begin_again(error, self._books.culprits_of_plan(self._states))
        if plan is None:
            return []
        try:
            failures = run_copies(plan, self.executor)
            drawn = StepTokens(failures=failures) if failures else self._run_bisecting(plan.scheduled, dict(plan.joint_draws))
        except BaseException:
            self.scheduler.abandon(plan)
            raise
        if drawn.scores:
            self._note_scores(plan, drawn)
        events = self._drop(plan, drawn.failures) if drawn.failures else self._complete(plan, drawn, began_s)
        if not self._groups:
            self._books.check_idle()
        if self.watcher is not None:
            self._report(self.watcher, plan, drawn, began_s)
        return events

    def _report(self, watcher: StepWatcher, plan: StepPlan, drawn: StepTokens, began_s: float) -> None:
        """Tells the watcher of a step, which must not lose its outputs by that."""
        events, ended = self.scheduler.manager.pool.events.take(), tuple(self._ended)
        self._ended.clear()
        try:
            watcher(StepRecord(plan, drawn, events, ended, began_s, self._clock()))
        except BaseException as error:
            if not is_failure(error):
                raise
            self.watcher = None
            _log.exception("The engine's watcher failed and is not told of any further step")

    def _run_bisecting(self, chunks: Sequence[ScheduledChunk], joined: Joined) -> StepTokens:
        """Returns what the chunks bring; with `failures`, that of the requests which fail on their own counts alone."""
        executor = self.executor
        sampler = StepSampler(chunks, self._states, executor, joined)
        try:
            batch = build_batch(chunks, self._states, executor.layout, self._tables)
            if sampler.needs_logits:
                for logits in logit_slices(executor, batch):
                    sampler.consume_logits(logits)
                    del logits  # before the next slice is made
            else:
                for best in argmax_slices(executor, batch):
                    sampler.consume_argmax(best)
            return sampler.drawn
        except BaseException as error:
            if not is_failure(error):
                raise
            if len(chunks) == 1:
                return StepTokens(failures={chunks[0].request_id: failure_message(error)})
        drawn = StepTokens()
        middle = len(chunks) // 2
        for half in (chunks[:middle], chunks[middle:]):
            drawn.take(self._run_bisecting(half, joined))
        return drawn

    def _complete(self, plan: StepPlan, drawn: StepTokens, began_s: float) -> list[StepEvent]:
        """Lets the scheduler count the step, and tells the readers. Text and stops are worked out first: they can fail."""
        prompts = self._note_step(plan, began_s)
        states, logprobs = self._states, drawn.logprobs
        steps: dict[str, Progress] = {}
        sampled: dict[str, Sequence[int]] = {}
        ended: dict[str, FinishReason] = {}
        errors: dict[str, str] = {}
        for request_id, token_ids in drawn.token_ids.items():
            try:
                step = states[request_id].advance(token_ids, logprobs.get(request_id) if logprobs else None)
                steps[request_id] = step
                sampled[request_id] = step.token_ids
                if step.finish_reason is not None:
                    ended[request_id] = step.finish_reason
            except BaseException as error:
                if not is_failure(error):
                    raise
                errors[request_id] = failure_message(error)
                sampled[request_id], ended[request_id] = token_ids[:1], FinishReason.ERROR
        try:
            finished = self.scheduler.complete_step(plan, sampled, ended)
        except BaseException as error:  # which of these requests have their new token is not known
            return self._begin_again(error, tuple(sampled))
        for request in finished:
            steps[request.request_id] = states[request.request_id].end(errors.get(request.request_id))
        return [*prompts, *steps.values(), *(output for request in finished if (output := self._close(request)) is not None)]

    def _note_step(self, plan: StepPlan, began_s: float) -> list[PromptProgress]:
        """Counts the step for its requests; returns how far it brought prompts of which this is told."""
        now, step = self._clock(), plan.step
        self.scheduler.note_step_time(plan, now - began_s)
        groups, states, prompts = self._groups, self._states, []
        for chunk in plan.scheduled:
            state = states[chunk.request_id]
            group = groups[state.group_id]
            group.note_chunk(chunk, step, began_s, now)
            if group.submission.reports_prompt and state.index == 0 and not state.request.output_token_ids:
                prompts.append(state.prompt_progress(chunk.stop))
        return prompts

    def _note_scores(self, plan: StepPlan, drawn: StepTokens) -> None:
        """Keeps the prompt scores of a step, also of one that fails: those that come again are skipped."""
        for chunk in plan.scheduled:
            if chunk.request_id in drawn.scores:
                try:
                    self._group_of(chunk.request_id).note_scores(chunk.first_scored, drawn.scores[chunk.request_id])
                except BaseException as error:
                    if not is_failure(error):
                        raise
                    drawn.failures[chunk.request_id] = failure_message(error)

    def _drop(self, plan: StepPlan, failures: Mapping[str, str]) -> list[StepEvent]:
        """Takes a plan back and ends the requests that made it fail."""
        events: list[StepEvent] = []
        try:
            self.scheduler.abandon(plan)
            for request_id, message in failures.items():
                events += self._fail(request_id, message)
        except BaseException as error:
            events += self._begin_again(error, [request_id for request_id in failures if request_id in self._states])
        return events

    def _begin_again(self, error: BaseException, blamed: Sequence[str]) -> list[StepEvent]:
        """Begins new books after an error that left the old ones half written; the requests to blame end with it."""
        self._books.begin_again(error, [state.request for state in self._states.values()])
        message = failure_message(error)
        return [event for request_id in blamed for event in self._fail(request_id, message)]

    def _fail(self, request_id: str, message: str) -> list[StepEvent]:
        request = self.scheduler.fail(request_id)
        if request is None:
            return []
        self._states[request_id].end(message)
        output = self._close(request)
        return [] if output is None else [output]

    def _group_of(self, request_id: str) -> RequestGroup:
        return self._groups[self._states[request_id].group_id]

    def _close(self, request: Request) -> RequestOutput | None:
        """Forgets a finished completion; returns the final output when it was the last of its group."""
        group = self._group_of(request.request_id)
        del self._states[request.request_id]
        self._books.has_failed_plan = False
        if self.watcher is not None:
            self._ended.append(request.request_id)
        group.note_end(self._clock())
        if group.num_open:
            return None
        del self._groups[group.request_id]
        return group.output()
