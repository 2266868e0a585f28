"""Conversations as they are passed to `LLM.chat`: distinguished, checked, and rendered by the model's template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from quire.errors import RequestError, TemplateError
from quire.text.chat import ChatTemplate
from quire.text.plain_values import mapping_of
from quire.text.template_inputs import TemplateInputs
from quire.text.tokenizer import Tokenizer
from quire.values import shown

Message = Mapping[str, Any]
Messages = Sequence[Message]

_SPEAKERS = ("system", "developer", "user", "assistant")
"""Roles that speak: their content is text. What another role brings, such as a tool's result, is left to the template."""

_TEXT_PARTS = ("text", "input_text", "output_text")
_OTHER_NAMES = MappingProxyType({"chat_template_kwargs": "variables", "template_kwargs": "variables"})
"""Names of other engines, and ours."""


def template_of(tokenizer: Tokenizer) -> ChatTemplate:
    """Returns the model's chat template; raises TemplateError if it has none."""
    if tokenizer.chat_template is None:
        raise TemplateError("this model has no chat template", next_step="Use generate() and write the prompt's format yourself.")
    return ChatTemplate(tokenizer.chat_template, special_tokens=tokenizer.named_tokens)


def require_known_inputs(inputs: TemplateInputs) -> None:
    """Raises RequestError for a keyword that is none of TemplateInputs."""
    known = tuple(TemplateInputs.__annotations__)
    unknown = next((name for name in inputs if name not in known), None)
    if unknown is not None:
        ours = _OTHER_NAMES.get(unknown)
        next_step = f"It is called {ours} here." if ours else f"Use {', '.join(known)}."
        raise RequestError("a chat has no option of this name", given=shown(unknown), next_step=next_step)


def split_conversations(messages: Messages | Sequence[Messages]) -> list[Messages]:
    """Returns the conversations one by one: a list of messages is one conversation, a list of those is many."""
    if isinstance(messages, str) or not isinstance(messages, Sequence):
        raise _not_a_conversation(messages)
    many: list[Messages] = []
    for item in messages:
        if mapping_of(item) is not None:
            return [messages_of(messages)]
        many.append(messages_of(item))
    return many


def messages_of(conversation: object) -> Messages:
    """Returns one conversation, each message a mapping and each part of its content {"type": "text", "text": ...}.

    Raises RequestError for anything that is not a non-empty list of messages, for a message without a role or that says
    nothing, and for content that is not text.
    """
    if isinstance(conversation, str) or not isinstance(conversation, Sequence) or not conversation:
        raise _not_a_conversation(conversation)
    return [_checked(_mapping(message)) for message in conversation]


def _mapping(message: object) -> Message:
    mapping = mapping_of(message)
    if mapping is None:
        raise _not_a_conversation(message)
    return mapping


def _checked(message: Message) -> Message:
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise RequestError(
            "a message has no role",
            given=f"role={shown(role)}" if "role" in message else f"a message with {', '.join(map(str, message))}"[:80],
            next_step='Pass {"role": "user", "content": "..."}.',
        )
    if all(value is None or (name == "content" and value == []) for name, value in message.items() if name != "role"):
        raise RequestError(
            "a message says nothing: it has a role and no content",
            given=f"role {shown(role)}",
            next_step='Give it a content, "" for an empty one.',
        )
    content = message.get("content")
    if content is None or isinstance(content, str):
        return message
    if isinstance(content, (list, tuple)) and (role in _SPEAKERS or all(map(_is_text_part, content))):
        return {**message, "content": [_text_part(part) for part in content]}
    if role in _SPEAKERS:
        raise RequestError(
            "the content of a message is a text or a list of text parts",
            given=f"{shown(content)} from {role}",
            next_step='Pass a string, or [{"type": "text", "text": "..."}].',
        )
    return message


def _is_text_part(part: object) -> bool:
    return isinstance(part, Mapping) and part.get("type") in _TEXT_PARTS and isinstance(part.get("text"), str)


def _text_part(part: object) -> Message:
    part = mapping_of(part) or part
    if isinstance(part, Mapping) and _is_text_part(part):
        return {**part, "type": "text"}
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise RequestError(
        "a part of a message is not text, and this engine reads text only",
        given=shown(kind),
        next_step='Send parts as {"type": "text", "text": "..."}, or the content as one string.',
    )


def _not_a_conversation(given: object) -> RequestError:
    return RequestError(
        "a conversation is a list of messages, and a message is a dictionary",
        given=shown(given),
        next_step='Pass [{"role": "user", "content": "..."}], or a list of such lists.',
    )
