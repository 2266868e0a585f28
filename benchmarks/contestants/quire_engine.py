"""Quire as a contestant: scheduler and executor without text, the prefix cache on only where it is the point."""

from __future__ import annotations

from quire import __version__
from quire.bench.harness import Harness, Room
from quire.config import PrefixCache
from quire.engine import driving
from quire.engine.options import WEIGHT_FORMATS, EngineOptions
from quire.models.checkpoint import load_checkpoint
from quire.units import cdiv

from .protocol import Contestant, ContestantError, Entry, Reading, Task
from .timing import timed_steps

_PLAIN = ("float32", "bfloat16")


class QuireContestant:
    """A harness whose blocks hold the largest workload, however many requests its tokens belong to."""

    def __init__(self, entry: Entry) -> None:
        room = Room(num_requests=entry.max_batch, num_tokens=cdiv(entry.max_total, entry.max_batch))
        self._harness = Harness(load_checkpoint(entry.model), {**_words(entry.number_format), "threads": entry.threads}, room)

    @property
    def facts(self) -> dict[str, str]:
        return {"quire": __version__, "executor": self._harness.executor.name, "kv": self._harness.layout.format.value}

    def run(self, task: Task) -> Reading:
        core = self._harness.core(PrefixCache.ON if task.reuses else PrefixCache.OFF)
        if task.num_known:
            core.submit(driving.greedy("before", task.prompts[0][: task.num_known], 1))
            driving.run(core)
        submissions = [driving.greedy(str(index), prompt, task.num_new) for index, prompt in enumerate(task.prompts)]
        requests = [driving.begin(core, submission) for submission in submissions]

        def step() -> list[list[int]]:
            driving.step(core)
            return [request.output_token_ids for request in requests]

        return timed_steps(step, task.num_new)


def _words(number_format: str) -> EngineOptions:
    """Returns the options that choose a format; what is not a plain type is quantized where this version can."""
    if number_format in _PLAIN:
        return {"dtype": number_format}
    if number_format not in WEIGHT_FORMATS:
        raise ContestantError(f"this version cannot quantize weights to {number_format}")
    return {"dtype": "bfloat16", "quantize": number_format}


def open_contestant(entry: Entry) -> Contestant:
    """Loads the model; raises ContestantError for a format that this version of Quire does not have."""
    return QuireContestant(entry)
