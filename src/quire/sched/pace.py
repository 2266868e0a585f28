"""How many prompt tokens a step may have, so that requests that decode get their next token in time.

    seconds of a step  =  base_s (its decoding requests)  +  cost_s * prompt tokens

Both are followed as steps are measured. Where `base_s` is wrong, `cost_s` makes up for it at the size that steps have, and the
next size is nearer to the target: the size converges to the target's whatever the base is, as long as larger steps take longer.
"""

from __future__ import annotations

import math

MIN_TOKENS = 8
"""Prompt tokens that a step may always have, so that a prompt goes on however slow steps are."""

_WEIGHT, _WEIGHT_OF_MORE = 0.25, 0.5
"""Of a new measurement in what is known, and of one that is higher: steps that are too long are noticed first."""

_MAX_CHANGE = 2.0
"""What a single step may change: a longer one was held up by something else, and a size is at most doubled."""

_GROWTH, _QUICK = 1.25, 0.85
"""How much larger the next step may be, whatever the estimates say, after one that took less than this share of the target."""

_LEAST_SHARE = 0.05
"""Of a step's time that its prompt tokens have at least taken."""


class Pace:
    """Learns from the steps that were measured; `target_s` is the time that a step with decoding requests should take."""

    def __init__(self, target_s: float) -> None:
        self._target_s = target_s
        self._base_s: float | None = None
        self._cost_s: float | None = None
        self._last_size = MIN_TOKENS
        self._was_quick = False

    def max_prompt_tokens(self) -> int:
        """Returns how many prompt tokens the next step may have beside requests that decode."""
        if self._cost_s is None:
            return MIN_TOKENS
        room_s = self._target_s - (self._base_s or 0.0)
        size = min(room_s / self._cost_s, _MAX_CHANGE * self._last_size)
        return max(MIN_TOKENS, round(size), math.ceil(_GROWTH * self._last_size) if self._was_quick else 0)

    def note(self, num_decoding: int, num_prompt: int, seconds: float) -> None:
        """Learns from a step of so many tokens of either kind."""
        if not num_prompt:
            self._base_s = _followed(self._base_s, seconds)
            return
        size = self.max_prompt_tokens()
        if num_decoding:
            if self._base_s is not None and seconds < self._base_s:  # fewer decode than when it was measured
                self._base_s = None
            if num_prompt >= size:
                self._last_size, self._was_quick = num_prompt, seconds < _QUICK * self._target_s
        prompt_s = max(seconds - (self._base_s or 0.0), _LEAST_SHARE * seconds)
        self._cost_s = _followed(self._cost_s, prompt_s / num_prompt, min(1.0, num_prompt / size))


def _followed(known: float | None, measured: float, trust: float = 1.0) -> float:
    """Returns a value a part of the way from what is known to what was measured."""
    if known is None:
        return measured
    weight = _WEIGHT_OF_MORE if measured > known else _WEIGHT
    return known + trust * weight * (min(measured, _MAX_CHANGE * known) - known)
