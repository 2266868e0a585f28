"""The prefix cache's savings: many requests with a shared prefix, and the second turn of a chat.

requests   [shared ........)[own ...)[new .....)     the shared part is computed once, or once per request
chat       turn 1: [prompt ........)[answer)
           turn 2: [prompt ........)[answer)[own)    cold computes all of it, warm only what the blocks do not hold
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from quire.bench.cost import Cost, decode_cost, prefill_cost
from quire.bench.harness import Harness, OnProgress, Room, prompt_tokens, timed_run
from quire.bench.report import Report, Samples
from quire.config import PrefixCache
from quire.engine import driving
from quire.engine.core import EngineCore
from quire.engine.options import EngineOptions
from quire.errors import IntegrityError
from quire.models.checkpoint import Checkpoint

_NOTES = (
    "with and without sharing: the same token ids, the cache empty at the start of every run",
    "roofline of a run: all prefill at the machine's FLOP/s, then every decode step at its bandwidth",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedWork:
    """`num_requests` prompts that begin with the same `num_shared` tokens and go on with `num_own`; `num_new` tokens each."""

    num_requests: int = 16
    num_shared: int = 2048
    num_own: int = 128
    num_new: int = 128
    repeat: int = 3

    @property
    def room(self) -> Room:
        longest = max(self.num_own + self.num_new, 3 * self.num_own + 1)  # a request, or the second turn of the chat
        return Room(num_requests=self.num_requests, num_tokens=self.num_shared + longest)


def measure_sharing(
    checkpoint: Checkpoint, work: SharedWork, options: EngineOptions, on_progress: OnProgress | None = None
) -> Report:
    """Reports the whole batch with and without a prefix cache, alternated, and TTFT of a second turn, cold and warm.

    The chat's first turn is the shared part and `num_own` more; its answer and its second question have `num_own` tokens each.
    Raises as `quire.bench.throughput.measure`.
    """
    harness = Harness(checkpoint, options, work.room, on_progress)

    def samples() -> Iterator[Samples]:
        harness.warm_up()
        yield from _requests(harness, work)
        yield from _second_turn(harness, work)

    return harness.report("prefix", samples, _NOTES)


def _requests(harness: Harness, work: SharedWork) -> Iterator[Samples]:
    found: dict[PrefixCache, list[float]] = {PrefixCache.OFF: [], PrefixCache.ON: []}
    for index in range(work.repeat):
        for mode, seconds in found.items():
            submissions = [
                driving.greedy(f"request-{request}", _prompt(harness, work, request), work.num_new)
                for request in range(work.num_requests)
            ]
            seconds.append(timed_run(harness.core(mode), submissions).total)
        harness.show_progress("Measuring shared prefixes", index + 1, work.repeat)
    off = median(found[PrefixCache.OFF])
    for mode, name in ((PrefixCache.OFF, "prefix cache off"), (PrefixCache.ON, "shared")):
        yield Samples(
            name=f"{work.num_requests} requests, {name}",
            seconds=found[mode],
            num_tokens=work.num_requests * work.num_new,
            costs=_costs(harness, work, mode),
            ratio=off / median(found[mode]),
            ratio_is="time without sharing / time",
        )


def _costs(harness: Harness, work: SharedWork, mode: PrefixCache) -> tuple[Cost, ...]:
    num_first = work.num_requests if mode is PrefixCache.OFF else 1
    prefill = (
        prefill_cost(harness.spec, num_first, 0, work.num_shared + work.num_own),
        prefill_cost(harness.spec, work.num_requests - num_first, work.num_shared, work.num_own),
    )
    context = work.num_shared + work.num_own + work.num_new // 2
    step = decode_cost(harness.spec, harness.weights, harness.layout, (context,) * work.num_requests)
    return (*prefill, *(step,) * (work.num_new - 1))


def _second_turn(harness: Harness, work: SharedWork) -> Iterator[Samples]:
    first = _prompt(harness, work, 0)
    question = prompt_tokens(harness.spec.vocab_size, work.num_requests + 1, work.num_own)
    cold: list[float] = []
    warm: list[float] = []
    num_cached: list[int] = []
    for index in range(work.repeat):
        core = harness.core(PrefixCache.ON)
        request = driving.begin(core, driving.greedy("turn-1", first, work.num_own))
        driving.run(core)
        second = [*first, *request.output_token_ids, *question]
        ttft, cached = _first_token(core, second)
        warm.append(ttft)
        num_cached.append(cached)
        cold.append(_first_token(harness.core(PrefixCache.ON), second)[0])
        harness.show_progress("Measuring the second turn", index + 1, work.repeat)
    yield from _turns(harness, (cold, warm), len(second), _same(num_cached))


def _turns(harness: Harness, times: tuple[list[float], list[float]], num_tokens: int, num_cached: int) -> Iterator[Samples]:
    cold, warm = times
    for name, seconds, known in (
        (f"cold, {num_tokens} tokens", cold, 0),
        (f"warm, {num_cached} of them cached", warm, num_cached),
    ):
        yield Samples(
            name=f"second turn, TTFT {name}",
            seconds=seconds,
            num_tokens=num_tokens,
            costs=(prefill_cost(harness.spec, 1, known, num_tokens - known),),
            ratio=median(cold) / median(seconds),
            ratio_is="cold TTFT / TTFT",
        )


def _first_token(core: EngineCore, prompt: Sequence[int]) -> tuple[float, int]:
    """Returns the seconds to the first token and how many tokens of the prompt the cache held."""
    start = time.perf_counter()
    request = driving.begin(core, driving.greedy("turn-2", prompt, 1))
    driving.run(core)
    return time.perf_counter() - start, request.num_cached_tokens


def _prompt(harness: Harness, work: SharedWork, request: int) -> list[int]:
    vocab_size = harness.spec.vocab_size
    return [*prompt_tokens(vocab_size, 0, work.num_shared), *prompt_tokens(vocab_size, request + 1, work.num_own)]


def _same(values: Sequence[int]) -> int:
    """Returns the one value of all runs; they do the same, so the cache must have done the same."""
    if len(set(values)) != 1:
        raise IntegrityError(
            "the cache reused different numbers of tokens in equal runs", given=values, next_step="Report this as a defect."
        )
    return values[0]
