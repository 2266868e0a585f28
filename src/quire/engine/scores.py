"""What teacher forcing says about a text: how likely the model finds each of its tokens after those before it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from quire.request import Logprob, RequestOutput, TokenLogprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Natural-log probabilities of a token sequence. The first token has no context and so no entry (None).

    `logprobs[i]` is the log-probability of `token_ids[i]` given tokens 0..i-1; `candidates[i]` holds the token and the
    most likely alternatives that were asked for.
    """

    token_ids: tuple[int, ...]
    candidates: tuple[TokenLogprobs | None, ...]
    num_cached_tokens: int

    @property
    def tokens(self) -> tuple[Logprob | None, ...]:
        """The entry of each token itself: its log-probability, rank and text."""
        pairs = zip(self.token_ids, self.candidates, strict=True)
        return tuple(None if entry is None else entry[token_id] for token_id, entry in pairs)

    @property
    def logprobs(self) -> tuple[float | None, ...]:
        return tuple(None if token is None else token.logprob for token in self.tokens)

    @property
    def total(self) -> float:
        """The log-probability of all tokens after the first."""
        return math.fsum(token.logprob for token in self.tokens if token is not None)

    @property
    def perplexity(self) -> float | None:
        """exp(-mean log-probability); None for a single token, which has none."""
        num_scored = len(self.token_ids) - 1
        return math.exp(-self.total / num_scored) if num_scored else None


def score_of(output: RequestOutput) -> Score:
    """Returns the score of a request that asked for prompt log-probabilities."""
    return Score(
        token_ids=output.prompt_token_ids,
        candidates=output.prompt_logprobs or (None,) * len(output.prompt_token_ids),
        num_cached_tokens=output.num_cached_tokens,
    )
