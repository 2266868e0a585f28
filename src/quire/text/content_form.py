"""Whether a chat template reads a message's content as one text or as parts, found out by rendering.

    content    [{"type": "text", "text": "How do I"}, {"type": "text", "text": "pick a lock?"}]
    as parts   where the template walks over them and shows every text
    as text    "How do I pick a lock?" elsewhere: joined by a space, as transformers' server joins them

The texts are replaced by marks first, so that what they say decides nothing. A template that shows a part as Python or JSON
writes it (`{'type': 'text', ...}`) does not read parts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from itertools import count
from typing import Any

from quire.errors import RequestError

Message = dict[str, Any]
Write = Callable[[Sequence[Message]], str]
"""Renders messages; raises RequestError where the template refuses them."""

PROBED_ROLES = ("system", "developer", "user", "assistant")
_MARK = "quiremark"
_SHOWN = re.compile(rf"(?P<leak>['\"]text['\"]:\s*['\"])?{_MARK}(?P<number>\d+)x", re.IGNORECASE)
_SEPARATOR = " "


def fit_parts(messages: Sequence[Message], write: Write) -> list[Message]:
    """Returns the messages with each content that came in parts in the form in which `write` shows all of it."""
    roles = list(dict.fromkeys(message.get("role") for message in messages if is_parts(message.get("content"))))
    if not roles:
        return list(messages)
    numbers = count()
    marked = [
        {**message, "content": _marked(message["content"], numbers)} if is_parts(message.get("content")) else message
        for message in messages
    ]
    as_text = _shown_by(write, _joined(marked, roles)) or set()
    reads_parts = [role for role in roles if _is_shown(write, marked, as_text, [each for each in roles if each != role])]
    if len(reads_parts) < len(roles) and _is_shown(write, marked, as_text, ()):
        reads_parts = roles
    return _joined(messages, [role for role in roles if role not in reads_parts])


def drops_text(role: str, write: Write) -> bool:
    """Returns whether a template leaves out what a `role` says in one text and shows it in a part."""
    mark = f"{_MARK}0x"
    before: list[Message] = [] if role != "assistant" else [{"role": "user", "content": "x"}]
    after: list[Message] = [{"role": "user", "content": "x"}] if role in {"system", "developer"} else []
    text_form, parts_form = ([*before, {"role": role, "content": content}, *after] for content in (mark, as_parts(mark)))
    return not _shown_by(write, text_form) and bool(_shown_by(write, parts_form))


def as_parts(text: str) -> list[Message]:
    """Returns a text as a list of one part."""
    return [{"type": "text", "text": text}]


def is_parts(content: object) -> bool:
    """Returns whether a content is a list of text parts; an empty one is."""
    return isinstance(content, (list, tuple)) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in content
    )


def _joined(messages: Sequence[Message], roles: Collection[object]) -> list[Message]:
    return [
        {**message, "content": _SEPARATOR.join(part["text"] for part in message["content"])}
        if message.get("role") in roles and is_parts(message.get("content"))
        else message
        for message in messages
    ]


def _marked(parts: Sequence[Message], numbers: count[int]) -> list[Message]:
    return [{**part, "text": f"{_MARK}{next(numbers)}x"} for part in parts]


def _is_shown(write: Write, marked: Sequence[Message], as_text: set[str], joined_roles: Collection[object]) -> bool:
    """Returns whether a template shows at least what it shows of texts when all but `joined_roles` come in parts."""
    shown = _shown_by(write, _joined(marked, joined_roles))
    return shown is not None and bool(shown) and shown >= as_text


def _shown_by(write: Write, messages: Sequence[Message]) -> set[str] | None:
    """Returns the marks that a template shows, None where it fails or shows a part as it is written in Python or JSON."""
    try:
        found = list(_SHOWN.finditer(write(messages)))
    except RequestError:
        return None
    return None if any(mark["leak"] for mark in found) else {mark["number"] for mark in found}
