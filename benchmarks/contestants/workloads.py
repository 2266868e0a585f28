"""What every contestant is asked to do: the same token ids, greedy, nothing reused but where reuse is the point.

prefill   [prompt ........)                                     tokens of the prompt a second
decode    [prompt ...)[new .....)                               a step for each request, after all have their first token
shared    [shared ........)[own ...)[new .....)   x batch       new tokens of all requests a second, prompts included
turn      [turn 1, known ........)[question)                    the whole prompt over the time to the first token
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import median

from .protocol import Prompts, Reading, Task

_WARM_UP_TOKENS = 512  # of all requests together
_WARM_UP_STEPS = 3


class Phase(Enum):
    PREFILL = "prefill"
    DECODE = "decode"
    SHARED = "shared"
    TURN = "turn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """`batch` prompts of `depth` tokens (at least one) and `own` more, and `num_new` greedy tokens after each.

    The first `depth` tokens are the same in all prompts of a shared prefix, and computed before in a second turn.
    """

    phase: Phase
    depth: int
    num_new: int
    batch: int = 1
    own: int = 0

    @property
    def name(self) -> str:
        return {
            Phase.PREFILL: f"prefill {self.depth}",
            Phase.DECODE: f"decode, batch {self.batch}, depth {self.depth}",
            Phase.SHARED: f"{self.batch} requests, {self.depth} shared + {self.own} own, {self.num_new} new",
            Phase.TURN: f"second turn, {self.depth} known + {self.own} new",
        }[self.phase]

    @property
    def reuses(self) -> bool:
        """Whether what is cached is the point."""
        return self.phase in (Phase.SHARED, Phase.TURN)

    @property
    def num_tokens(self) -> int:
        """Tokens of one request in the end."""
        return max(self.depth, 1) + self.own + self.num_new

    def task(self, vocab_size: int) -> Task:
        """Returns the token ids: arbitrary, always the same, and different between the requests where nothing is shared."""
        starts = [0] * self.batch if self.phase is Phase.SHARED else range(self.batch)
        prompts: Prompts = [
            _tokens(vocab_size, start, max(self.depth, 1)) + _tokens(vocab_size, self.batch + request, self.own)
            for request, start in enumerate(starts)
        ]
        return Task(
            prompts=prompts,
            num_new=self.num_new,
            num_shared=self.depth if self.phase is Phase.SHARED else 0,
            num_known=self.depth if self.phase is Phase.TURN else 0,
        )

    def warm_up(self) -> Workload:
        """Returns a short workload of the same kind, after which an engine has made what it makes for such steps."""
        depth = min(self.depth, max(1, _WARM_UP_TOKENS // self.batch))
        own, num_new = min(self.own, depth), min(self.num_new, _WARM_UP_STEPS)
        return Workload(phase=self.phase, depth=depth, num_new=num_new, batch=self.batch, own=own)

    def tokens_per_second(self, reading: Reading) -> float:
        """Returns the rate that this workload is about, of all requests together."""
        if self.phase is Phase.SHARED:
            return self.batch * self.num_new / (reading.prefill_s + sum(reading.steps_s))
        if self.phase is Phase.DECODE and reading.steps_s:
            return self.batch / median(reading.steps_s)
        return self.batch * (self.depth + self.own) / reading.prefill_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The numbers the workloads are made of."""

    prompt: int = 512
    deep: int = 4096
    num_new: int = 64
    batches: tuple[int, ...] = (4, 8, 16)
    requests: int = 16
    shared: int = 2048
    own: int = 128

    def workloads(self, groups: Sequence[str] | None = None) -> tuple[Workload, ...]:
        """Returns the workloads of some groups, or of all, in the order of `GROUPS`."""
        found = self._by_group()
        return tuple(each for group in GROUPS if groups is None or group in groups for each in found[group])

    def _by_group(self) -> Mapping[str, tuple[Workload, ...]]:
        few = max(2, self.num_new // 2)
        return {
            "decode": (Workload(phase=Phase.DECODE, depth=0, num_new=self.num_new),),
            "deep": (
                Workload(phase=Phase.DECODE, depth=self.deep, num_new=few),
                Workload(phase=Phase.PREFILL, depth=self.deep, num_new=1),
            ),
            "prefill": (Workload(phase=Phase.PREFILL, depth=self.prompt, num_new=1),),
            "batch": tuple(Workload(phase=Phase.DECODE, depth=0, num_new=few, batch=batch) for batch in self.batches),
            "shared": (
                Workload(phase=Phase.SHARED, depth=self.shared, num_new=2 * self.num_new, batch=self.requests, own=self.own),
            ),
            "turn": (Workload(phase=Phase.TURN, depth=self.shared, num_new=1, own=self.own),),
        }


GROUPS = ("decode", "deep", "prefill", "batch", "shared", "turn")


def fitting(workloads: Sequence[Workload], max_context: int) -> tuple[list[Workload], list[Workload]]:
    """Returns the workloads that a model's context holds, and those it does not."""
    held = [each for each in workloads if each.num_tokens <= max_context]
    return held, [each for each in workloads if each not in held]


def measured_together(workloads: Sequence[Workload]) -> list[tuple[Workload, ...]]:
    """Returns which workloads one reading answers: a decode of one request at a depth tells the prefill of that depth too."""
    prefills = {each.depth: each for each in workloads if each.phase is Phase.PREFILL}
    deep = {each.depth for each in workloads if _tells_prefill(each)}
    return [
        (each, prefills[each.depth]) if _tells_prefill(each) and each.depth in prefills else (each,)
        for each in workloads
        if each.phase is not Phase.PREFILL or each.depth not in deep
    ]


def _tells_prefill(workload: Workload) -> bool:
    return workload.phase is Phase.DECODE and workload.batch == 1 and workload.depth > 0


def _tokens(vocab_size: int, start: int, num_tokens: int) -> list[int]:
    return [(31 * start + 17 * position + 5) % vocab_size for position in range(num_tokens)]
