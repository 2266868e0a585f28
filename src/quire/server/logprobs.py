"""Log-probabilities as the APIs write them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from quire.request import Logprob, TokenLogprobs
from quire.text.tokenizer import Tokenizer

_LEAST = -9999.0
"""What OpenAI writes for a token that cannot come; JSON has no infinity."""


def number_of(entry: Logprob) -> float:
    """Returns a log-probability that JSON can hold."""
    return max(entry.logprob, _LEAST)


def chat_entries(
    token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs], num_top: int, tokenizer: Tokenizer
) -> list[dict[str, Any]]:
    """Returns `logprobs.content` of a chat: one entry per token, each with its `num_top` most likely candidates."""
    return [
        {
            **_chat_entry(token_id, candidates[token_id], tokenizer),
            "top_logprobs": [_chat_entry(*best, tokenizer) for best in _most_likely(candidates, num_top)],
        }
        for token_id, candidates in zip(token_ids, logprobs, strict=True)
    ]


class CompletionEntries:
    """Builds the `logprobs` of a completion piece by piece: `text_offset` counts from the start of the choice's text."""

    def __init__(self, num_top: int, offset: int = 0) -> None:
        self._num_top = num_top
        self._offset = offset

    def take(
        self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs | None], texts: Mapping[int, str]
    ) -> dict[str, Any]:
        """Returns the entries of the next tokens. The first token of a prompt has no candidates; its text is in `texts`."""
        names = [
            texts[token_id] if entry is None else entry[token_id].decoded_token or ""
            for token_id, entry in zip(token_ids, logprobs, strict=True)
        ]
        return {
            "tokens": names,
            "token_logprobs": [
                None if entry is None else number_of(entry[token_id]) for token_id, entry in zip(token_ids, logprobs, strict=True)
            ],
            "top_logprobs": [None if entry is None else self._top(entry) for entry in logprobs] if self._num_top else None,
            "text_offset": list(self._offsets(names)),
        }

    def _top(self, candidates: TokenLogprobs) -> dict[str, float]:
        """Returns candidates by their text; of several with the same text, such as halves of characters, the most likely."""
        entries: dict[str, float] = {}
        for _, entry in _most_likely(candidates, self._num_top):
            entries.setdefault(entry.decoded_token or "", number_of(entry))
        return entries

    def _offsets(self, names: Sequence[str]) -> Iterator[int]:
        for name in names:
            yield self._offset
            self._offset += len(name)


def prompt_entries(logprobs: Sequence[TokenLogprobs | None] | None) -> list[dict[str, Any] | None] | None:
    """Returns `prompt_logprobs` as vLLM writes them: for each token but the first its candidates, by their ids."""
    if logprobs is None:
        return None
    return [
        None
        if candidates is None
        else {
            str(token_id): {"logprob": number_of(entry), "rank": entry.rank, "decoded_token": entry.decoded_token}
            for token_id, entry in candidates.items()
        }
        for candidates in logprobs
    ]


def _most_likely(candidates: TokenLogprobs, num_top: int) -> list[tuple[int, Logprob]]:
    within = [(token_id, entry) for token_id, entry in candidates.items() if entry.rank <= num_top]
    return sorted(within, key=lambda pair: pair[1].rank)


def _chat_entry(token_id: int, entry: Logprob, tokenizer: Tokenizer) -> dict[str, Any]:
    text = entry.decoded_token or ""
    content = tokenizer.bytes_of(token_id)
    return {"token": text, "logprob": number_of(entry), "bytes": list(text.encode() if content is None else content)}
