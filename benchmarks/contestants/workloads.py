"""What every contestant is asked to do: the same token ids, greedy, nothing reused from one measurement to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

Prompts = list[list[int]]


class Phase(Enum):
    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """`batch` prompts of `depth` tokens (at least one) and `num_new` greedy tokens after each."""

    phase: Phase
    depth: int
    num_new: int
    batch: int = 1

    @property
    def name(self) -> str:
        if self.phase is Phase.PREFILL:
            return f"prefill {self.depth}"
        return f"decode, batch {self.batch}, depth {self.depth}"

    @property
    def num_tokens(self) -> int:
        """Tokens of one request in the end."""
        return max(self.depth, 1) + self.num_new

    def prompts(self, vocab_size: int) -> Prompts:
        """Returns the token ids: arbitrary, always the same, and different between the requests from the first token on."""
        return [
            [(31 * request + 17 * position + 5) % vocab_size for position in range(max(self.depth, 1))]
            for request in range(self.batch)
        ]

    def tokens_per_second(self, prefill_s: float, step_s: float | None) -> float:
        """Returns the rate of all requests together in the phase this workload is about."""
        if self.phase is Phase.PREFILL or step_s is None:
            return self.batch * self.depth / prefill_s
        return self.batch / step_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The numbers the workloads are made of."""

    prompt: int = 512
    deep: int = 4096
    num_new: int = 64
    batches: tuple[int, ...] = (4, 8, 16)

    def workloads(self) -> tuple[Workload, ...]:
        """Returns decode at both depths, prefill at both lengths, and decode in batches."""
        few = max(2, self.num_new // 2)
        return (
            Workload(phase=Phase.DECODE, depth=0, num_new=self.num_new),
            Workload(phase=Phase.DECODE, depth=self.deep, num_new=few),
            Workload(phase=Phase.PREFILL, depth=self.prompt, num_new=1),
            Workload(phase=Phase.PREFILL, depth=self.deep, num_new=1),
            *(Workload(phase=Phase.DECODE, depth=0, num_new=few, batch=batch) for batch in self.batches),
        )


def fitting(workloads: Sequence[Workload], max_context: int) -> tuple[list[Workload], list[Workload]]:
    """Returns the workloads that a model's context holds, and those it does not."""
    held = [each for each in workloads if each.num_tokens <= max_context]
    return held, [each for each in workloads if each not in held]
