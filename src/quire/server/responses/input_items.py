"""`input`: items as clients spell them, read into items that can be kept, listed and rendered.

"text"                                    one message of the user
{"role", "content": text or parts}        a message, also without a type; parts are input_text, output_text, text, refusal or str
{"type": "reasoning", ...}                what the model thought before its next message
{"type": "function_call", ...}            refused until the server calls tools, like its output
{"type": "item_reference", "id": ...}     an item that the model wrote in a response that is kept, else 404; also without a type
other types                               skipped, and named
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from quire.server.errors import ApiError, Refusal, refuse
from quire.server.limits import Limits
from quire.server.render import new_id
from quire.server.responses.store import Item

_ROLES = ("user", "assistant", "system", "developer")
_TEXT_PARTS: Mapping[str, str] = MappingProxyType(
    {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
)
_TOOL_ITEMS = ("function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output")
_REFERENCE = "item_reference"
_ITEM_KEYS = ("type", "id", "status", "role", "content")
_PART_KEYS = ("type", "text", "refusal", "annotations", "logprobs")
_REASONING_KEYS = ("type", "id", "status", "summary", "content", "encrypted_content")


def referred_ids(given: object) -> list[str]:
    """Returns the ids of items that an input names instead of sending them."""
    items = [item for item in given if isinstance(item, dict)] if isinstance(given, list) else []
    return [item["id"] for item in items if _kind_of(item) == _REFERENCE and isinstance(item.get("id"), str)]


class ItemReader:
    """Reads the input of one request and collects the names of what it dropped. `find` looks up an item by its id."""

    def __init__(self, limits: Limits, find: Callable[[str], Item | None]) -> None:
        self.dropped: list[str] = []
        self._limits = limits
        self._find = find

    def read(self, given: object) -> list[Item]:
        """Returns messages and reasoning, with ids of the server; raises ApiError that names the place of a fault."""
        if given is None:
            return []
        if isinstance(given, str):
            return [_message("user", [given])]
        if not isinstance(given, list) or len(given) > self._limits.messages:
            raise refuse(
                f"input must be a text or a list of at most {self._limits.messages} items",
                'Send a text, or [{"role": "user", "content": "..."}].',
                param="input",
            )
        items = [self._item(item, f"input.{idx}") for idx, item in enumerate(given)]
        return [item for item in items if item is not None]

    def _item(self, item: object, place: str) -> Item | None:
        """Returns an item as it is kept, None for one that is skipped."""
        kind = _kind_of(item) if isinstance(item, dict) else None
        if not isinstance(item, dict) or not isinstance(kind, str):
            raise refuse(f"{place} is no item", 'Send {"role": "user", "content": "..."}.', param=place)
        if kind == "message":
            return self._message(item, place)
        if kind == "reasoning":
            return self._reasoning(item, place)
        if kind in _TOOL_ITEMS:
            raise _unsupported(place, "tool calls and their results", "unsupported_tools")
        if kind == _REFERENCE:
            return self._referred(item, place)
        self.dropped.append(f"input.{kind}")
        return None

    def _referred(self, item: Mapping[str, Any], place: str) -> Item:
        item_id = item.get("id")
        found = self._find(item_id) if isinstance(item_id, str) else None
        if found is None:
            raise ApiError(
                f"{place} refers to an item that is not kept",
                next_step="Send the item itself.",
                refusal=Refusal(status=404, param=place, code="item_not_found"),
            )
        return found

    def _message(self, item: Mapping[str, Any], place: str) -> Item:
        role, content = item.get("role"), item.get("content")
        if role not in _ROLES:
            raise refuse(f"{place}.role is not known", f"Use one of {', '.join(_ROLES)}.", param=f"{place}.role")
        self._drop(item, _ITEM_KEYS, "input")
        if isinstance(content, str):
            return _message(role, [content])
        return _message(role, [self._text_of(*part) for part in self._parts(content, f"{place}.content")])

    def _reasoning(self, item: Mapping[str, Any], place: str) -> Item:
        """Returns reasoning with its own text where it has one, else with its summary."""
        self._drop(item, _REASONING_KEYS, "input")
        texts = {
            name: [_text(part.get("text"), where) for part, where in self._parts(item.get(name) or [], f"{place}.{name}")]
            for name in ("summary", "content")
        }
        summary = [{"type": "summary_text", "text": text} for text in texts["summary"]]
        content = [{"type": "reasoning_text", "text": text} for text in texts["content"]]
        return {"type": "reasoning", "id": new_id("rs_"), "status": "completed", "summary": summary, "content": content}

    def _parts(self, content: object, place: str) -> list[tuple[Mapping[str, Any], str]]:
        """Returns the parts of an item, each an object, with their places."""
        if not isinstance(content, list) or len(content) > self._limits.parts:
            raise refuse(f"{place} must be a text or a list of at most {self._limits.parts} parts", "Send a text.", param=place)
        parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
        for idx, part in enumerate(parts):
            if not isinstance(part, dict):
                raise refuse(f"{place}.{idx} is no part", "Send a text.", param=f"{place}.{idx}")
        return [(part, f"{place}.{idx}") for idx, part in enumerate(parts)]

    def _text_of(self, part: Mapping[str, Any], place: str) -> str:
        kind = part.get("type")
        if not isinstance(kind, str):
            raise refuse(f"{place} has no type", 'Send {"type": "input_text", "text": "..."}.', param=place)
        if kind not in _TEXT_PARTS:
            shown = kind if kind.isidentifier() and len(kind) <= 40 else "this type"
            raise _unsupported(place, f"a part of {shown}: this model reads text", "unsupported_content")
        self._drop(part, _PART_KEYS, "input.content")
        return _text(part.get(_TEXT_PARTS[kind]), f"{place}.{_TEXT_PARTS[kind]}")

    def _drop(self, given: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
        self.dropped += [f"{where}.{key}" for key in given if key not in known]


def _kind_of(item: Mapping[str, Any]) -> object:
    """Returns the type of an item; messages and references may come without one."""
    kind = item.get("type")
    return kind if kind is not None else "message" if "role" in item else _REFERENCE if "id" in item else None


def _message(role: str, texts: list[str]) -> Item:
    extra: dict[str, Any] = {"annotations": []} if role == "assistant" else {}
    kind = "output_text" if role == "assistant" else "input_text"
    content = [{"type": kind, "text": text, **extra} for text in texts]
    return {"type": "message", "id": new_id("msg_"), "status": "completed", "role": role, "content": content}


def _text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise refuse(f"{place} must be a text", "Send a string.", param=place)
    return value


def _unsupported(place: str, what: str, code: str) -> ApiError:
    return refuse(f"{place} holds {what}, which this server does not support yet", "Leave it out.", param=place, code=code)
