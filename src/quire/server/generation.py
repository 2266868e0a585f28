"""The inner request and the inner events: what every API is translated into, and what its answers are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

from quire.engine.completion import RequestGroup
from quire.engine.step_events import Progress, StepEvent
from quire.request import CompletionOutput, FinishReason, RequestOutput, TokenLogprobs
from quire.server.admission import Load


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxTokens:
    """How long an answer was to be, and how long it may be: what fits behind the prompt. None: until the context is full."""

    requested: int | None
    kept: int | None

    @property
    def is_capped(self) -> bool:
        return self.kept != self.requested


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A request that the engine has checked: one group per prompt, in their order, not yet begun.

    A group computes one completion per choice, or one for all `num_choices` of its prompt where they would be equal
    (`is_shared`). `drops_output`: the engine draws one token, since it cannot draw none, and no answer shows it.
    """

    groups: tuple[RequestGroup, ...]
    num_choices: int
    max_tokens: MaxTokens
    seed: int | None = None  # of draws; None where nothing is drawn
    is_shared: bool = False
    drops_output: bool = False
    numbers: dict[str, int] = field(init=False)
    """The place of each group, by its request id."""
    load: Load = field(init=False)
    """What the engine has to do for it."""

    def __post_init__(self) -> None:
        numbers = {group.request_id: idx for idx, group in enumerate(self.groups)}
        object.__setattr__(self, "numbers", numbers)
        object.__setattr__(self, "load", _load_of(self.groups))

    def choices_of(self, group_idx: int, completion_idx: int) -> range:
        """Returns the choices that one completion of one group is: all those of a prompt come before those of the next."""
        first = group_idx * self.num_choices
        return (
            range(first, first + self.num_choices)
            if self.is_shared
            else range(first + completion_idx, first + completion_idx + 1)
        )


def _load_of(groups: Sequence[RequestGroup]) -> Load:
    num_tokens = sum(len(group.submission.prompt.token_ids) for group in groups)
    num_requests = sum(len(group.states) for group in groups)
    return Load(num_requests=num_requests, num_tokens=num_tokens, tenant=groups[0].submission.tenant)


@dataclass(slots=True)  # neither frozen nor by keyword: one is made per token, in a third of the time
class Delta:
    """What some steps added to one completion; why it ended comes with the last one, `stop_reason` where a stop was found."""

    group_idx: int
    completion_idx: int
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens that a request took: of prompts, of them found in the cache and written into it, and of choices."""

    num_prompt: int
    num_cached: int
    num_written: int
    num_completion: int


def deltas_of(events: Sequence[StepEvent], generation: Generation) -> list[Delta]:
    """Returns what events add, those of one completion joined: a reader that was slow gets one delta for many steps."""
    steps = [event for event in events if isinstance(event, Progress)]
    if len(steps) > 1:
        steps = _joined(steps)
    return [_seen(_delta(generation.numbers[step.request_id], step), generation) for step in steps]


def whole_delta(group_idx: int, completion: CompletionOutput, generation: Generation) -> Delta:
    """Returns a whole completion as a single delta."""
    delta = Delta(
        group_idx=group_idx,
        completion_idx=completion.index,
        text=completion.text,
        token_ids=completion.token_ids,
        logprobs=completion.logprobs,
        finish_reason=completion.finish_reason,
        stop_reason=completion.stop_reason,
    )
    return _seen(delta, generation)


def usage_of(outputs: Sequence[RequestOutput], generation: Generation, block_size: int) -> Usage:
    """Returns the usage of a request that is done. Whole blocks are written; every choice counts, also an equal one."""
    copies = generation.num_choices if generation.is_shared else 1
    num_completion = sum(len(completion.token_ids) for output in outputs for completion in output.outputs) * copies
    return Usage(
        num_prompt=sum(len(output.prompt_token_ids) for output in outputs),
        num_cached=sum(output.num_cached_tokens for output in outputs),
        num_written=sum(num_written(len(each.prompt_token_ids), each.num_cached_tokens, block_size) for each in outputs),
        num_completion=0 if generation.drops_output else num_completion,
    )


def num_written(num_prompt: int, num_cached: int, block_size: int) -> int:
    """Returns how many tokens of a prompt are written into the cache: those of whole blocks that it did not have."""
    return max(0, num_prompt // block_size * block_size - num_cached)


def _seen(delta: Delta, generation: Generation) -> Delta:
    """Returns what a client sees of a delta: of a generation that drops its output the end alone."""
    if not generation.drops_output:
        return delta
    return Delta(group_idx=delta.group_idx, completion_idx=delta.completion_idx, finish_reason=FinishReason.LENGTH)


def _joined(steps: Sequence[Progress]) -> list[Progress]:
    """Returns one step for each completion."""
    of_completions: dict[tuple[str, int], list[Progress]] = {}
    for step in steps:
        of_completions.setdefault((step.request_id, step.index), []).append(step)
    return [_sum(each) if len(each) > 1 else each[0] for each in of_completions.values()]


def _sum(steps: Sequence[Progress]) -> Progress:
    logprobs = [step.logprobs for step in steps if step.logprobs is not None]
    last = steps[-1]
    return Progress(
        request_id=last.request_id,
        index=last.index,
        text="".join([step.text for step in steps]),
        token_ids=tuple(chain.from_iterable([step.token_ids for step in steps])),
        logprobs=tuple(chain.from_iterable(logprobs)) if logprobs else None,
        cumulative_logprob=last.cumulative_logprob,
        finish_reason=last.finish_reason,
        stop_reason=last.stop_reason,
    )


def _delta(group_idx: int, step: Progress) -> Delta:
    return Delta(group_idx, step.index, step.text, step.token_ids, step.logprobs, step.finish_reason, step.stop_reason)
