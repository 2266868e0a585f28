"""The message of an answer, as it grows: its text and log-probabilities are kept as the JSON that they end in."""

from __future__ import annotations

from quire.server.generation import Delta
from quire.server.logprobs import chat_entries
from quire.server.render import json_text, to_json
from quire.text.tokenizer import Tokenizer


class MessageItem:
    """One output item of type message with one part. `num_top` None: no log-probabilities."""

    def __init__(self, item_id: str, num_top: int | None, tokenizer: Tokenizer) -> None:
        self.item_id = item_id
        self._num_top, self._tokenizer = num_top, tokenizer
        self._texts: list[str] = []
        self._entries: list[bytes] = []

    def take(self, delta: Delta) -> bytes:
        """Adds a delta; returns its log-probabilities as a JSON list."""
        self._texts.append(delta.text)
        if self._num_top is None or not delta.token_ids:
            return b"[]"
        entries = to_json(chat_entries(delta.token_ids, delta.logprobs or (), self._num_top, self._tokenizer))
        self._entries.append(entries[1:-1])
        return entries

    @property
    def text(self) -> bytes:
        """The whole text as JSON."""
        return json_text("".join(self._texts))

    @property
    def logprobs(self) -> bytes:
        """The log-probabilities of all tokens as a JSON list."""
        return b"[" + b",".join(self._entries) + b"]"

    def part(self) -> bytes:
        """Returns the content part as it stands."""
        return b'{"type":"output_text","annotations":[],"logprobs":' + self.logprobs + b',"text":' + self.text + b"}"

    def begun(self) -> bytes:
        """Returns the item before it has content."""
        return self._written("in_progress", b"")

    def ended(self, status: str) -> bytes:
        """Returns the item with all of its content."""
        return self._written(status, self.part())

    def _written(self, status: str, content: bytes) -> bytes:
        head = to_json({"type": "message", "id": self.item_id, "status": status, "role": "assistant"})
        return head[:-1] + b',"content":[' + content + b"]}"
