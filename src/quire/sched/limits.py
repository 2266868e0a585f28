"""What can never be answered is refused at once, with the numbers: promise 3 at the scheduler's door."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from quire.errors import CapacityError, EmptyPromptError, PromptTooLongError, RequestError
from quire.kv.hashing import MAX_TOKEN_ID
from quire.request import Request
from quire.units import cdiv


class ContextBound(Enum):
    """What keeps the context from being longer: the model itself, or an option."""

    MODEL = "model"
    MAX_CONTEXT = "max_context"
    KV_MEMORY = "kv_memory"

    @property
    def or_raise(self) -> str:
        """The end of an advice: the option that would make room, nothing where none can."""
        return "" if self is ContextBound.MODEL else f", or raise {self.value}"


class PoolBound(Enum):
    """The option of `load_model` that decides how many blocks the pool has."""

    KV_MEMORY = "kv_memory"
    MAX_NUM_SEQS = "max_num_seqs"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """The context and the pool's size; `max_tokens` is the longest prompt plus output that both hold."""

    max_context: int
    num_blocks: int
    block_size: int
    context_bound: ContextBound = ContextBound.MODEL

    @property
    def max_tokens(self) -> int:
        return min(self.max_context, self.num_blocks * self.block_size)

    def max_num_tokens(self, request: Request) -> int:
        """Returns the tokens, prompt and output, with which a request ends by its length."""
        max_new = request.sampling.max_tokens
        return self.max_tokens if max_new is None else min(self.max_tokens, len(request.prompt_token_ids) + max_new)

    def check(self, request: Request) -> None:
        """Raises the RequestError that says why this request can never be answered."""
        num_prompt = len(request.prompt_token_ids)
        if not num_prompt:
            raise EmptyPromptError("The prompt has no tokens", given="0 tokens", next_step="Send at least one token.")
        for token_id in (min(request.prompt_token_ids), max(request.prompt_token_ids)):
            if not 0 <= token_id <= MAX_TOKEN_ID:
                raise RequestError(
                    "The prompt holds an impossible token id",
                    given=token_id,
                    limit=f"0 to {MAX_TOKEN_ID}",
                    next_step="Send ids of the vocabulary.",
                )
        if num_prompt >= self.max_context:
            raise PromptTooLongError(
                "The prompt leaves no room for a new token",
                given=f"{num_prompt} tokens",
                limit=f"a context of {self.max_context} tokens",
                next_step=f"Shorten the prompt{self.context_bound.or_raise}.",
            )
        self._check_capacity(num_prompt, request.sampling.max_tokens)

    def _check_capacity(self, num_prompt: int, max_new: int | None) -> None:
        num_tokens = num_prompt + (1 if max_new is None else max_new)
        if num_tokens > self.max_context:
            raise CapacityError(
                "The prompt and max_tokens together exceed the context",
                given=f"{num_prompt} + {max_new} tokens",
                limit=f"{self.max_context} tokens",
                next_step=f"Lower max_tokens to {self.max_context - num_prompt} or less{self.context_bound.or_raise}.",
            )
        num_needed = cdiv(num_tokens, self.block_size)
        if num_needed > self.num_blocks:
            raise CapacityError(
                "The request needs more KV blocks than the pool has",
                given=f"{num_needed} blocks for {num_tokens} tokens",
                limit=f"{self.num_blocks} blocks of {self.block_size} tokens",
                next_step="Shorten the prompt, lower max_tokens, or raise kv_memory.",
            )


def require_known_prompt(token_ids: Sequence[int], vocab_size: int) -> None:
    """Raises RequestError where a prompt holds a token id that the model does not have."""
    unknown = [token_id for token_id in token_ids if not 0 <= token_id < vocab_size]
    if unknown:
        raise RequestError(
            "the prompt holds a token id that the model does not have",
            given=unknown[0],
            limit=f"0 to {vocab_size - 1}",
            next_step="Encode the text with this model's tokenizer.",
        )
