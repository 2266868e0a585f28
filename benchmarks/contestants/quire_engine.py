"""Quire as a contestant: scheduler and executor without text, no prefix cache."""

from __future__ import annotations

from quire import __version__
from quire.bench.rig import Rig, Room
from quire.engine.options import EngineOptions
from quire.models.checkpoint import load_checkpoint
from quire.units import cdiv

from .protocol import Contestant, Entry, Reading
from .timing import timed_steps
from .workloads import Prompts


class QuireContestant:
    """A rig whose blocks hold the largest workload, however many requests its tokens belong to."""

    def __init__(self, entry: Entry) -> None:
        is_plain = entry.number_format == "bfloat16"
        options: EngineOptions = {"dtype": "bfloat16", "quantize": "none" if is_plain else entry.number_format}
        room = Room(num_requests=entry.max_batch, num_tokens=cdiv(entry.max_total, entry.max_batch))
        self._rig = Rig(load_checkpoint(entry.model), {**options, "threads": entry.threads}, room)

    @property
    def facts(self) -> dict[str, str]:
        return {"quire": __version__, "executor": self._rig.executor.name, "kv": self._rig.layout.format.value}

    def run(self, prompts: Prompts, num_new: int) -> Reading:
        loop = self._rig.loop()
        requests = [loop.submit(str(index), prompt, num_new) for index, prompt in enumerate(prompts)]

        def step() -> list[list[int]]:
            loop.step()
            return [request.output_token_ids for request in requests]

        return timed_steps(step, num_new)


def open_contestant(entry: Entry) -> Contestant:
    """Loads the model."""
    return QuireContestant(entry)
