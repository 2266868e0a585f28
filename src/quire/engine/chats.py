"""Conversations as they are passed to `LLM.chat`: told apart from one another, and rendered by the model's own template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quire.errors import RequestError, TemplateError
from quire.text.chat import ChatTemplate
from quire.text.tokenizer import Tokenizer

Message = Mapping[str, Any]
Messages = Sequence[Message]


def template_of(tokenizer: Tokenizer) -> ChatTemplate:
    """Returns the model's chat template; raises TemplateError if it has none."""
    if tokenizer.chat_template is None:
        raise TemplateError("this model has no chat template", next_step="Use generate() and write the prompt's format yourself.")
    return ChatTemplate(tokenizer.chat_template, special_tokens=tokenizer.named_tokens)


def split_conversations(messages: Messages | Sequence[Messages]) -> list[Messages]:
    """Returns the conversations one by one: a list of messages is one conversation, a list of those is many."""
    if isinstance(messages, str) or not isinstance(messages, Sequence):
        raise _not_a_conversation(messages)
    many: list[Messages] = []
    for item in messages:
        if isinstance(item, Mapping):
            return [messages_of(messages)]
        many.append(messages_of(item))
    return many


def messages_of(conversation: object) -> Messages:
    """Returns one conversation, its contents as texts; OpenAI's text parts are joined by line breaks, as vLLM does.

    Raises RequestError for anything that is not a non-empty list of messages, and for parts that are not text.
    """
    if isinstance(conversation, str) or not isinstance(conversation, Sequence) or not conversation:
        raise _not_a_conversation(conversation)
    if not all(isinstance(message, Mapping) for message in conversation):
        raise _not_a_conversation(conversation)
    return [_with_flat_content(message) for message in conversation]


def _with_flat_content(message: Message) -> Message:
    """Returns a message whose content is one text where it came in parts, because that is what templates read."""
    content = message.get("content")
    if not isinstance(content, (list, tuple)):
        return message
    return {**message, "content": "\n".join(_text_of(part) for part in content)}


def _text_of(part: object) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise RequestError(
        "a part of a message is not text, and this engine reads text only",
        given=repr(kind)[:40],
        next_step='Send parts as {"type": "text", "text": "..."}, or the content as one string.',
    )


def _not_a_conversation(given: object) -> RequestError:
    return RequestError(
        "a conversation is a list of messages",
        given=type(given).__name__,
        next_step='Pass [{"role": "user", "content": "..."}], or a list of such lists.',
    )
