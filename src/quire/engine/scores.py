"""What teacher forcing says about a text: how likely the model finds each of its tokens after those before it.

A log-probability needs the logits of its position, and the cache keeps K/V, not logits. So a text that is scored whole is
computed whole; what the cache can save is context whose own log-probabilities are not wanted:

    context          text                      score(text, given=context)
    c c c c c c c c  x x x x                   x is scored, c is not
    [-- blocks --)[---- computed ----)         all of c but its last token may come from the cache: that token predicts x[0]
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import takewhile

from quire.engine.core import EngineCore
from quire.engine.prompts import ParsedPrompt, Submission, read_prompt
from quire.errors import EmptyPromptError, ExecutorError, RequestError, failure_of
from quire.request import Logprob, RequestOutput, SamplingParams, TokenLogprobs
from quire.text.tokenizer import Tokenizer
from quire.values import shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Natural-log probabilities of a token sequence. Given tokens and the first of all have no entry (None).

    `token_ids` are given tokens and text together. `logprobs[i]` is the log-probability of `token_ids[i]` given tokens
    0..i-1; `candidates[i]` holds the token and the most likely alternatives that were asked for.
    """

    token_ids: tuple[int, ...]
    candidates: tuple[TokenLogprobs | None, ...]
    num_cached_tokens: int
    num_given_tokens: int = 0

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
        """The log-probability of all scored tokens together."""
        return math.fsum(token.logprob for token in self.tokens if token is not None)

    @property
    def loss(self) -> float | None:
        """The mean negative log-probability of a scored token: a trainer's cross entropy; None where nothing is scored."""
        num_scored = sum(entry is not None for entry in self.candidates)
        return -self.total / num_scored if num_scored else None

    @property
    def perplexity(self) -> float | None:
        """exp(loss); None for a single token, which has none."""
        return None if self.loss is None else math.exp(self.loss)


def scoring(prompt: ParsedPrompt, request_id: str, *, num_candidates: int = 0) -> Submission:
    """Returns the request that scores a prompt: its tokens' log-probabilities, and one token that is not read."""
    sampling = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=num_candidates)
    return Submission(request_id=request_id, prompt=prompt, sampling=sampling)


def read_scored_prompt(prompt: object, context: object, tokenizer: Tokenizer) -> ParsedPrompt:
    """Returns what `LLM.score` is asked for; raises RequestError where the context has another form than the prompt.

    Two texts are encoded as the one text they make, so that a token across the seam is the one the model knows; context are
    then the tokens that this text and the context alone begin with alike.
    """
    own = read_prompt(prompt, tokenizer)
    if context is None:
        return own
    if isinstance(context, Mapping):
        raise RequestError(
            "given is a text or token ids",
            given=shown(context),
            next_step='Pass cache_salt with the text to score, {"prompt": ..., "cache_salt": ...}; it covers both.',
        )
    scored = _joined(read_prompt(context, tokenizer), own, tokenizer)
    if scored.num_context_tokens == len(scored.token_ids):
        raise EmptyPromptError("there is nothing to score after what is given", next_step="Pass at least one token of text.")
    return scored


def score_on(core: EngineCore, prompt: ParsedPrompt, request_id: str) -> Score:
    """Scores on a core that does nothing else, step by step; otherwise as `LLM.score`."""
    core.submit(scoring(prompt, request_id))
    while core.has_work:
        for event in core.step():
            if isinstance(event, RequestOutput):
                return score_of(event, prompt.num_context_tokens)
    raise ExecutorError("a score did not come to an end", given=request_id, next_step="Report this as a defect.")


def score_of(output: RequestOutput, num_context_tokens: int = 0) -> Score:
    """Returns the score of a request that asked for prompt log-probabilities; raises ExecutorError if it failed."""
    if output.outputs[0].error is not None:
        raise failure_of(output.outputs[0].error)
    return Score(
        token_ids=output.prompt_token_ids,
        candidates=output.prompt_logprobs or (None,) * len(output.prompt_token_ids),
        num_cached_tokens=output.num_cached_tokens,
        num_given_tokens=num_context_tokens,
    )


def _joined(context: ParsedPrompt, own: ParsedPrompt, tokenizer: Tokenizer) -> ParsedPrompt:
    if own.text is None and context.text is None:
        token_ids = context.token_ids + own.token_ids
        return replace(own, token_ids=token_ids, num_context_tokens=len(context.token_ids))
    if own.text is None or context.text is None:
        raise RequestError(
            "given and the text to score have different forms",
            given="a text and token ids",
            next_step="Pass two texts, or token ids twice.",
        )
    text = context.text + own.text
    token_ids = tuple(tokenizer.encode(text))
    pairs = zip(token_ids, context.token_ids, strict=False)
    num_alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return replace(own, token_ids=token_ids, num_context_tokens=num_alike, text=text)
