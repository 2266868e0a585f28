"""A conversation of Anthropic's API as chat templates read it: who speaks in turn, and nothing but content.

system, [text]    one system message, in its place                 billing header of an agent    dropped, and named
user user         one turn, as the API says                        ids, cache_control ...        dropped, and named
[text]            a text, as if it were no block                   [tool_result, text]           messages of a tool, then a user
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from quire.server.chat_messages import Message
from quire.server.errors import refuse
from quire.server.limits import Limits
from quire.server.messages.blocks import TEXTS, Block, BlockReader, text_of

_BILLING = "x-anthropic-billing-header"
"""Begins a line that an agent writes into its system prompt. It differs in every request, and no prefix would be reused."""

_BLOCKS = {
    "system": ("text",),
    "user": (*TEXTS, "tool_result"),
    "assistant": (*TEXTS, "thinking", "redacted_thinking", "tool_use"),
}
_JOINED_ROLES = ("user", "assistant")
_BETWEEN_THOUGHTS = "\n\n"


@dataclass(slots=True, kw_only=True)
class _Turn:
    """What one speaker says at a time."""

    role: str
    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[Message] = field(default_factory=list)
    results: list[Message] = field(default_factory=list)

    def add(self, other: _Turn) -> None:
        self.texts += other.texts
        self.thoughts += other.thoughts
        self.calls += other.calls
        self.results += other.results

    def messages(self) -> list[Message]:
        """Returns the turn as messages. A call without a text has no content."""
        message: Message = {"role": self.role, "content": _content(self.texts)}
        if self.thoughts:
            message["reasoning_content"] = _BETWEEN_THOUGHTS.join(self.thoughts)
        if self.calls:
            message |= {"content": message["content"] or None, "tool_calls": self.calls}
        return [*self.results, *([message] if self.texts or not self.results else [])]


class ConversationReader:
    """Reads the conversation of one request. `dropped` names what has no effect, `tool_place` is that of the first call."""

    def __init__(self, limits: Limits) -> None:
        self.dropped: list[str] = []
        self.tool_place: str | None = None
        self._limits = limits
        self._blocks = BlockReader(limits, self.dropped)

    def read(self, system: object, messages: object) -> list[Message]:
        """Returns messages that hold a role and content; raises ApiError that names the place of what cannot be read."""
        if not isinstance(messages, list) or not 1 <= len(messages) <= self._limits.messages:
            raise refuse(
                f"messages must be a list of 1 to {self._limits.messages} messages",
                'Send [{"role": "user", "content": "..."}].',
                param="messages",
            )
        turns = [] if system is None else [self._turn("system", system, "system")]
        turns += [self._message(message, f"messages.{idx}") for idx, message in enumerate(messages)]
        return [message for turn in _joined(turns) for message in turn.messages()]

    def _message(self, message: object, place: str) -> _Turn:
        if not isinstance(message, dict):
            raise refuse(f"{place} is not an object", 'Send {"role": "user", "content": "..."}.', param=place)
        role = message.get("role")
        if not isinstance(role, str) or role not in _BLOCKS:
            raise refuse(f"{place}.role is not known", f"Use one of {', '.join(_BLOCKS)}.", param=f"{place}.role")
        self.dropped += [f"messages.{key}" for key in message if key not in ("role", "content")]
        return self._turn(role, message.get("content"), f"{place}.content")

    def _turn(self, role: str, content: object, place: str) -> _Turn:
        turn = _Turn(role=role)
        for block, inner in self._blocks.blocks(content, place, _BLOCKS[role]):
            match block["type"]:
                case "thinking":
                    turn.thoughts.append(text_of(block.get("thinking"), f"{inner}.thinking"))
                case "redacted_thinking":
                    self.dropped.append("messages.content.redacted_thinking")
                case "tool_use":
                    turn.calls.append(self._call(block, inner))
                case "tool_result":
                    turn.results.append(self._result(block, inner))
                case _:
                    turn.texts += self._said(role, self._blocks.text(block, inner))
        return turn

    def _said(self, role: str, text: str) -> list[str]:
        """Returns a text as far as it is content: of a system prompt without what an agent writes for its accounts."""
        if role != "system":
            return [text]
        if text.startswith(_BILLING):
            self.dropped.append(f"system.{_BILLING}")
            text = text.partition("\n")[2]
        return [text] if text else []

    def _call(self, block: Block, place: str) -> Message:
        self.tool_place = self.tool_place or place
        if not isinstance(block.get("input"), dict):
            raise refuse(f"{place}.input must be an object", "Send the input as the model wrote it.", param=f"{place}.input")
        function = {"name": text_of(block.get("name"), f"{place}.name"), "arguments": block["input"]}
        return {"id": text_of(block.get("id"), f"{place}.id"), "type": "function", "function": function}

    def _result(self, block: Block, place: str) -> Message:
        self.tool_place = self.tool_place or place
        content = "" if block.get("content") is None else block["content"]
        texts = [self._blocks.text(each, inner) for each, inner in self._blocks.blocks(content, f"{place}.content")]
        call_id = text_of(block.get("tool_use_id"), f"{place}.tool_use_id")
        return {"role": "tool", "tool_call_id": call_id, "content": _content(texts)}


def with_system_in_front(messages: Sequence[Message]) -> list[Message]:
    """Returns the system messages first, and those of the user that they parted as one: turns alternate then."""
    front = [message for message in messages if message["role"] == "system"]
    for message in messages:
        if front and message["role"] == front[-1]["role"] == "user":
            front[-1] = {"role": "user", "content": [*_parts(front[-1]["content"]), *_parts(message["content"])]}
        elif message["role"] != "system":
            front.append(message)
    return front


def _parts(content: str | list[Message]) -> list[Message]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _content(texts: Sequence[str]) -> str | list[Message]:
    """Returns texts as a content, one without its block, since marks of a client's cache turn texts into blocks."""
    return "".join(texts) if len(texts) < 2 else [{"type": "text", "text": text} for text in texts]


def _joined(turns: Sequence[_Turn]) -> list[_Turn]:
    """Returns turns in which no speaker but the system goes on; a system prompt that says nothing is none."""
    joined: list[_Turn] = []
    for turn in turns:
        if joined and turn.role == joined[-1].role and turn.role in _JOINED_ROLES:
            joined[-1].add(turn)
        elif turn.texts or turn.role != "system":
            joined.append(turn)
    return joined
