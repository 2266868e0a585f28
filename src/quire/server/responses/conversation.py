"""From the items of a conversation to messages as chat templates read them."""

from __future__ import annotations

from collections.abc import Sequence

from quire.engine.frontend import Frontend
from quire.errors import RequestError
from quire.server.chat_messages import Message
from quire.server.responses.store import Item

_BETWEEN_THOUGHTS = "\n\n"
_MARK = "quirethought"
_PROBE: tuple[Message, ...] = (
    {"role": "user", "content": "x"},
    {"role": "assistant", "content": "x", "reasoning_content": _MARK},
)


def messages_of(instructions: str | None, items: Sequence[Item], frontend: Frontend) -> tuple[list[Message], list[str]]:
    """Returns the messages, instructions first, and the names of items without effect.

    Reasoning becomes a part of the assistant's message behind it, where the template shows reasoning.
    """
    messages: list[Message] = [] if not instructions else [{"role": "system", "content": instructions}]
    has_reasoning = any(item["type"] == "reasoning" for item in items)
    is_shown = has_reasoning and _shows_reasoning(frontend)
    thoughts: list[str] = []
    for item in items:
        if item["type"] == "reasoning":
            thoughts += [part["text"] for part in item["content"] or item["summary"]]
            continue
        message = _message(item)
        if is_shown and thoughts and message["role"] == "assistant":
            message["reasoning_content"] = _BETWEEN_THOUGHTS.join(thoughts)
        messages.append(message)
        thoughts = []
    return messages, ["input.reasoning"] if has_reasoning and not is_shown else []


def _message(item: Item) -> Message:
    """Returns a message; of one part the text itself, since not every template reads parts."""
    texts = [part["text"] for part in item["content"]]
    content = "".join(texts) if len(texts) < 2 else [{"type": "text", "text": text} for text in texts]
    return {"role": "system" if item["role"] == "developer" else item["role"], "content": content}


def _shows_reasoning(frontend: Frontend) -> bool:
    """Returns whether the template writes the reasoning of an answer into the prompt."""
    try:
        probe = frontend.chat_text(_PROBE, {}, add_generation_prompt=False)
    except RequestError:
        return False
    return _MARK in probe.text
