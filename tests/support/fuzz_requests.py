"""Random submissions that have much in common: prompts cut from each other around block borders, repeats, and next turns."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from quire.config import KERNEL_TILE_TOKENS
from quire.engine.prompts import ParsedPrompt, Submission
from quire.request import RequestOutput, SamplingParams

_NUM_KNOWN = 12  # prompts to go on from


@dataclass(slots=True)
class Requests:
    """Draws submissions whose prompt and longest answer, one of `lengths`, fit `max_tokens` tokens together."""

    dice: random.Random
    vocab_size: int
    max_tokens: int
    lengths: Sequence[int]
    known: list[tuple[int, ...]] = field(default_factory=list)
    num_drawn: int = 0

    def __post_init__(self) -> None:
        self.known += [self._noise(self.dice.randint(1, self.max_tokens - 2)) for _ in range(3)]

    def draw(self) -> Submission:
        """Returns the next submission."""
        dice, self.num_drawn = self.dice, self.num_drawn + 1
        prompt = self._prompt()
        sampling = self._sampling(self.max_tokens - len(prompt))
        context = dice.randrange(len(prompt)) if sampling.prompt_logprobs is not None and dice.random() < 0.5 else 0
        salt = "salt" if dice.random() < 0.1 else ""
        parsed = ParsedPrompt(token_ids=prompt, cache_salt=salt, num_context_tokens=context)
        return Submission(
            request_id=f"r{self.num_drawn}",
            prompt=parsed,
            sampling=sampling,
            priority=dice.choice((0, 0, 0, -1, 1)),
            tenant="other" if dice.random() < 0.1 else "",
        )

    def note(self, output: RequestOutput) -> None:
        """Remembers a conversation that can be continued."""
        turn = (*(output.prompt_token_ids or ()), *output.outputs[0].token_ids)
        if len(turn) < self.max_tokens - 1:
            self._remember(turn)

    def _prompt(self) -> tuple[int, ...]:
        """Returns a known prompt as it is, or cut and continued, or a new one."""
        dice = self.dice
        if dice.random() < 0.2:
            prompt = self._noise(dice.randint(1, self.max_tokens // dice.choice((1, 2, 4)) - 1))
        else:
            prompt = self._continued(dice.choice(self.known))
        self._remember(prompt)
        return prompt

    def _continued(self, prompt: Sequence[int]) -> tuple[int, ...]:
        dice = self.dice
        if dice.random() < 0.2:
            return tuple(prompt)
        if dice.random() < 0.7:
            border = dice.randint(0, len(prompt) // KERNEL_TILE_TOKENS + 1) * KERNEL_TILE_TOKENS
            cut = border + dice.choice((-2, -1, 0, 0, 1, 2))
        else:
            cut = dice.randint(0, len(prompt))
        kept = tuple(prompt[: max(0, cut)])
        room = self.max_tokens - 1 - len(kept)
        tail = min(room, dice.choice((0, 1, 1, 2, 7, 31, 32, 33, 60)))
        return kept + self._noise(tail if kept else max(1, tail))

    def _sampling(self, room: int) -> SamplingParams:
        dice = self.dice
        chosen: dict[str, Any] = {"max_tokens": min(room, dice.choice(self.lengths)), "seed": dice.randrange(2**40)}
        chosen["temperature"] = dice.choice((0, 0, 0.7, 1.4))
        if chosen["temperature"]:
            chosen |= dice.choice(({}, {"top_k": 20}, {"top_p": 0.8}, {"min_p": 0.05}))
            chosen["n"] = dice.choice((1, 1, 1, 2, 5))
        if dice.random() < 0.2:
            chosen |= {"repetition_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.2}
        if dice.random() < 0.2:
            chosen["stop_token_ids"] = tuple(dice.sample(range(self.vocab_size), 12))
        if dice.random() < 0.6:
            chosen["logprobs"] = dice.choice((0, 3))
        if dice.random() < 0.15:
            chosen["prompt_logprobs"] = dice.choice((0, 2))
        return SamplingParams(**chosen)

    def _noise(self, count: int) -> tuple[int, ...]:
        return tuple(self.dice.randrange(self.vocab_size) for _ in range(count))

    def _remember(self, prompt: tuple[int, ...]) -> None:
        if len(self.known) == _NUM_KNOWN:
            del self.known[self.dice.randrange(_NUM_KNOWN)]
        self.known.append(prompt)
