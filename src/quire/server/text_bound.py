"""Refuses a prompt that is too long by its bytes alone: encoding megabytes takes seconds of a worker."""

from __future__ import annotations

from dataclasses import dataclass

from quire.server.errors import ApiError, Refusal
from quire.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class TextBound:
    """The tokens that a context holds, and the most bytes that one stands for."""

    max_context: int
    bytes_per_token: int

    def require(self, text: str) -> None:
        """Raises ApiError for a text that cannot fit, whatever its tokens are."""
        least = -(-len(text.encode()) // self.bytes_per_token)
        if least > self.max_context - 1:
            raise prompt_too_long(f"at least {least}", self.max_context)


def text_bound(tokenizer: Tokenizer, max_context: int) -> TextBound | None:
    """Returns the bound of a model's texts; None where its tokens may stand for any number of bytes."""
    widest = tokenizer.max_bytes_per_token
    return None if widest is None else TextBound(max_context=max_context, bytes_per_token=widest)


def prompt_too_long(num_tokens: int | str, max_context: int) -> ApiError:
    """Returns the error for a prompt that leaves no room for a token; both numbers are told."""
    return ApiError(
        f"prompt is too long: {num_tokens} tokens > {max_context - 1} maximum",
        next_step=f"Shorten it: the context holds {max_context} tokens, prompt and answer together.",
        refusal=Refusal(code="context_length_exceeded"),
    )
