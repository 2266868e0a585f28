"""Prompts with a `suffix`: code models are told by tokens of their own what stands before and behind a gap.

<|fim_prefix|> prompt <|fim_suffix|> suffix <|fim_middle|>      and the model writes what stands between
"""

from __future__ import annotations

from dataclasses import dataclass

from quire.server.errors import refuse
from quire.text.tokenizer import Tokenizer

_ENDS = ("<|endoftext|>", "<|fim_pad|>", "<|file_sep|>", "<|file_separator|>", "<|repo_name|>", "<file_sep>", "\u2581<EOT>")
"""What models write behind the middle, beside the tokens that end any output of theirs."""


@dataclass(frozen=True, slots=True)
class GapTokens:
    """The tokens before the prompt, before the suffix, and before the middle."""

    prefix: str
    suffix: str
    middle: str

    def around(self, prompt: str, suffix: str) -> str:
        """Returns a prompt and its suffix as one text."""
        return f"{self.prefix}{prompt}{self.suffix}{suffix}{self.middle}"


_SPELLINGS = (
    GapTokens("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen2.5-Coder, CodeGemma
    GapTokens("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite
    GapTokens("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    GapTokens("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>"),  # CodeLlama
    GapTokens("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"),  # DeepSeek-Coder
)


def gap_tokens(tokenizer: Tokenizer) -> GapTokens | None:
    """Returns the tokens that a model was trained with, None where it has none."""
    added = {token.content for token in tokenizer.added_tokens.values()}
    return next((each for each in _SPELLINGS if added.issuperset((each.prefix, each.suffix, each.middle))), None)


def with_suffix(prompt: object, suffix: str, tokenizer: Tokenizer) -> str:
    """Returns a prompt with what is to stand behind its continuation.

    Raises ApiError where the model has no tokens for that, and for what is not one text.
    """
    tokens = gap_tokens(tokenizer)
    if tokens is None:
        raise refuse(
            "suffix needs a model with tokens for filling in, which this one has not",
            "Leave suffix out, or serve a model for code.",
            param="suffix",
            code="unsupported_suffix",
        )
    if not isinstance(prompt, str):
        raise refuse("suffix goes with one prompt that is a text", "Send the prompt as a string.", param="prompt")
    return tokens.around(prompt, suffix)


def ends_of(tokenizer: Tokenizer) -> list[int]:
    """Returns the tokens that end what is filled in."""
    return sorted(token_id for token_id, token in tokenizer.added_tokens.items() if token.content in _ENDS)
