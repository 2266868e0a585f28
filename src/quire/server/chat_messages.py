"""Messages of a chat as clients send them, and as templates read them: only content, in the roles that templates know.

developer   becomes system                 text, refusal parts          text
function    refused, like tool             image, audio, file parts     refused by place and type
other keys  (ids, cache_control ...)       dropped, and named
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from quire.engine.frontend import Frontend
from quire.engine.prompts import ParsedPrompt
from quire.errors import TemplateError
from quire.server.errors import ApiError, refuse
from quire.server.limits import Limits
from quire.server.text_bound import TextBound
from quire.text.marked_text import MarkedText
from quire.text.template_inputs import TemplateInputs

_ROLES: Mapping[str, str] = {"developer": "system", "system": "system", "user": "user", "assistant": "assistant"}
_TOOL_ROLES = ("tool", "function")
_TOOL_KEYS = ("tool_calls", "function_call")
_CONTENT_KEYS = ("name", "reasoning_content", "reasoning")
_TEXT_PARTS: Mapping[str, str] = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
_BETWEEN_SYSTEM_TEXTS = "\n\n"

Message = dict[str, Any]


class MessageReader:
    """Reads the messages of one request and collects the names of what it dropped."""

    def __init__(self, limits: Limits) -> None:
        self.dropped: list[str] = []
        self._limits = limits

    def read(self, messages: object) -> list[Message]:
        """Returns messages that hold a role and content; raises ApiError that names the place of what cannot be read."""
        if not isinstance(messages, list) or not 1 <= len(messages) <= self._limits.messages:
            raise refuse(
                f"messages must be a list of 1 to {self._limits.messages} messages",
                'Send [{"role": "user", "content": "..."}].',
                param="messages",
            )
        return [self._message(message, f"messages.{idx}") for idx, message in enumerate(messages)]

    def _message(self, message: object, place: str) -> Message:
        if not isinstance(message, dict):
            raise refuse(f"{place} is not an object", 'Send {"role": "user", "content": "..."}.', param=place)
        role = message.get("role")
        if role in _TOOL_ROLES or any(message.get(key) for key in _TOOL_KEYS):
            raise _unsupported(place, "tool calls and their results", "unsupported_tools")
        if not isinstance(role, str) or role not in _ROLES:
            raise refuse(f"{place}.role is not known", f"Use one of {', '.join(_ROLES)}.", param=f"{place}.role")
        read: Message = {"role": _ROLES[role], "content": self._content(message.get("content"), f"{place}.content")}
        for key, value in message.items():
            if key in _CONTENT_KEYS and value is not None:
                read[key] = _text(value, f"{place}.{key}")
            elif key not in ("role", "content", *_CONTENT_KEYS, *_TOOL_KEYS):
                self.dropped.append(f"messages.{key}")
        return read

    def _content(self, content: object, place: str) -> str | list[Message]:
        if isinstance(content, str):
            return content
        if not isinstance(content, list) or len(content) > self._limits.parts:
            raise refuse(
                f"{place} must be a text or a list of at most {self._limits.parts} parts",
                "Send a text.",
                param=place,
            )
        return [self._part(part, f"{place}.{idx}") for idx, part in enumerate(content)]

    def _part(self, part: object, place: str) -> Message:
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(part, dict) or not isinstance(kind, str):
            raise refuse(f"{place} has no type", 'Send {"type": "text", "text": "..."}.', param=place)
        if kind not in _TEXT_PARTS:
            shown = kind if kind.isidentifier() and len(kind) <= 40 else "this type"
            raise _unsupported(place, f"parts of {shown}: this model reads text", "unsupported_content")
        self.dropped += [f"messages.content.{key}" for key in part if key not in ("type", _TEXT_PARTS[kind])]
        return {"type": "text", "text": _text(part.get(_TEXT_PARTS[kind]), f"{place}.{_TEXT_PARTS[kind]}")}


class ChatEnd(Enum):
    """What stands at the end of a chat: the beginning of the answer, the last message as it is, or that message unfinished."""

    ANSWER = "answer"
    MESSAGE = "message"
    UNFINISHED = "unfinished"


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedChat:
    """A prompt, and what the template wrote it from."""

    prompt: ParsedPrompt
    messages: Sequence[Message]
    inputs: TemplateInputs


def render_chat(
    frontend: Frontend,
    messages: Sequence[Message],
    inputs: TemplateInputs,
    *,
    end: ChatEnd = ChatEnd.ANSWER,
    bound: TextBound | None = None,
) -> RenderedChat:
    """Renders a chat. System messages are joined in front where the template refuses or ignores them elsewhere.

    Raises RequestError where the template refuses the messages, and ApiError where it shows no system message at all, or
    where the chat is longer than `bound`.
    """
    refused: TemplateError | None = None
    for form in _forms(messages):
        try:
            chat = _rendered(frontend, form, inputs, end)
        except TemplateError as error:
            refused = refused or error
            continue
        if _shows_system(form, chat.text):
            if bound is not None:
                bound.require(chat.text)
            return RenderedChat(prompt=frontend.encoded(chat), messages=form, inputs=inputs)
    if refused is not None:
        raise refused
    raise refuse("the model's chat template ignores system messages", "Write the text into a user message.", param="messages")


def _rendered(frontend: Frontend, messages: Sequence[Message], inputs: TemplateInputs, end: ChatEnd) -> MarkedText:
    if end is ChatEnd.UNFINISHED:
        return frontend.unfinished_chat_text(messages, inputs)
    return frontend.chat_text(messages, inputs, add_generation_prompt=end is ChatEnd.ANSWER)


def _forms(messages: Sequence[Message]) -> list[Sequence[Message]]:
    system = [message for message in messages if message["role"] == "system"]
    if not system or list(messages[:1]) == system:
        return [messages]
    text = _BETWEEN_SYSTEM_TEXTS.join(text for message in system for text in _texts_of(message))
    others = [message for message in messages if message["role"] != "system"]
    return [messages, [{"role": "system", "content": text}, *others]]


def _shows_system(messages: Sequence[Message], rendered: str) -> bool:
    """Returns whether the first line of each system text is in a prompt: templates may change the space around it."""
    texts = (text.strip() for message in messages if message["role"] == "system" for text in _texts_of(message))
    return all(line.strip() in rendered for text in texts for line in text.splitlines()[:1])


def _texts_of(message: Message) -> list[str]:
    content = message["content"]
    return [content] if isinstance(content, str) else [part["text"] for part in content]


def _text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise refuse(f"{place} must be a text", "Send a string.", param=place)
    return value


def _unsupported(place: str, what: str, code: str) -> ApiError:
    return refuse(f"{place} holds {what}, which this server does not support yet", "Leave it out.", param=place, code=code)
