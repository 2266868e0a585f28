"""Blocks of a message: what each says to the model as a text, and which ones it cannot read.

text            its text                        thinking               in answers: what the model thought
document        title, context, text            redacted_thinking      dropped, and named
search_result   title, source, texts            tool_use, tool_result  calls and their results
other keys      dropped, and named              image, other types     refused by place
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from quire.server.errors import ApiError, refuse
from quire.server.limits import Limits

Block = dict[str, Any]

_KEYS = {
    "text": ("text",),
    "document": ("source", "title", "context"),
    "search_result": ("content", "title", "source"),
    "thinking": ("thinking",),
    "redacted_thinking": ("data",),
    "tool_use": ("id", "name", "input"),
    "tool_result": ("tool_use_id", "content"),
}
TEXTS = ("text", "document", "search_result")
_UNREAD = ("image", "container_upload", "tool_reference", "server_tool_use", "web_search_tool_result", "mcp_tool_use")
"""Further types, which an error names."""


class BlockReader:
    """Reads the blocks of one request and collects the names of what it drops in `dropped`."""

    def __init__(self, limits: Limits, dropped: list[str]) -> None:
        self._limits, self._dropped = limits, dropped

    def blocks(self, content: object, place: str, kinds: Collection[str] = TEXTS) -> list[tuple[Block, str]]:
        """Returns each block with its place, a text as one block; raises ApiError for a block that is none of `kinds`."""
        if isinstance(content, str):
            return [({"type": "text", "text": content}, place)]
        if not isinstance(content, list) or len(content) > self._limits.parts:
            raise refuse(f"{place} must be a text or a list of at most {self._limits.parts} blocks", "Send a text.", param=place)
        return [(self._block(block, f"{place}.{idx}", kinds), f"{place}.{idx}") for idx, block in enumerate(content)]

    def text(self, block: Block, place: str) -> str:
        """Returns what a text, a document or a search result says."""
        if block["type"] == "text":
            return text_of(block.get("text"), f"{place}.text")
        names = ("title", "context") if block["type"] == "document" else ("title", "source")
        head = [text_of(block[name], f"{place}.{name}") for name in names if block.get(name) is not None]
        body = (
            self._document(block, place) if block["type"] == "document" else self._texts(block.get("content"), f"{place}.content")
        )
        return "\n".join([*head, *body])

    def _document(self, block: Block, place: str) -> list[str]:
        source, place = block.get("source"), f"{place}.source"
        if isinstance(source, dict) and source.get("type") == "text":
            return [text_of(source.get("data"), f"{place}.data")]
        if isinstance(source, dict) and source.get("type") == "content":
            return self._texts(source.get("content"), f"{place}.content")
        raise _unreadable(place, "a document that is not text")

    def _texts(self, content: object, place: str) -> list[str]:
        return [self.text(block, inner) for block, inner in self.blocks(content, place, ("text",))]

    def _block(self, block: object, place: str, kinds: Collection[str]) -> Block:
        kind = block.get("type") if isinstance(block, dict) else None
        if not isinstance(block, dict) or not isinstance(kind, str):
            raise refuse(f"{place} has no type", 'Send {"type": "text", "text": "..."}.', param=place)
        if kind not in kinds:
            raise _unreadable(place, f"a block of type {kind}" if kind in (*_KEYS, *_UNREAD) else "a block of another type")
        home = "system" if place.startswith("system") else "messages.content"
        self._dropped += [f"{home}.{key}" for key in block if key not in ("type", *_KEYS[kind])]
        return block


def text_of(value: object, place: str) -> str:
    """Returns a text; raises ApiError for anything else."""
    if not isinstance(value, str):
        raise refuse(f"{place} must be a text", "Send a string.", param=place)
    return value


def _unreadable(place: str, what: str) -> ApiError:
    return refuse(
        f"{place} holds {what}, which is not read there: this model reads text",
        "Leave it out, or send its text.",
        param=place,
        code="unsupported_content",
    )
