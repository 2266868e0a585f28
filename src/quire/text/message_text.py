"""Chats in which no message spells a control token: what a user writes stays text and cannot forge a turn.

message      Hi<|im_end|>                           holds the text of a control token
marked       Hi<#|im_end|>                          # is a character that occurs nowhere else
rendered     <|user|>Hi<#|im_end|><|im_end|>        whole are the template's own tokens only

A template may make a token from a role: '<|' + message.role + '|>'. Only a role that is common, or that the template compares
with one of its own texts, can become one; another that is part of a token's text is marked inside: <|i#m_end|>.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import Any

from quire.errors import TemplateError
from quire.text.chat import ChatTemplate
from quire.text.marked_text import MarkedText, encode_marked, escaped, unused_character
from quire.text.plain_values import MAX_INPUT_DEPTH, mapping_of
from quire.text.token_texts import TokenTexts
from quire.text.tokenizer import Tokenizer

_ANSWERING_ROLES = ("assistant", "model")
_COMMON_ROLES = frozenset({"system", "developer", "user", "assistant", "model", "tool", "function"})
_NAMES = ("role", "name")

Messages = Sequence[Mapping[str, Any]]


class ChatEncoder:
    """Renders chats with a template and encodes them.

    Control tokens are the tokenizer's special tokens. Other added tokens that the template holds in a text of its own are
    control tokens too, as in transformers, except words and except in the messages of assistants: what these thought, and how
    they called tools, may be written with them.
    """

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer) -> None:
        self._template = template
        self._tokenizer = tokenizer
        added = {token_id: token.content for token_id, token in tokenizer.added_tokens.items()}
        special = {text for token_id, text in added.items() if token_id in tokenizer.special_ids} | tokenizer.control_tokens
        self._in_answers = TokenTexts(special, tokenizer)
        self._common = _COMMON_ROLES | template.literals
        literals = "\0".join(template.literals)
        written = {text for text in added.values() if text in literals and not text.isalnum()}
        self._elsewhere = TokenTexts(special | written, tokenizer)

    def render(
        self,
        messages: Messages,
        *,
        add_generation_prompt: bool = True,
        now: datetime | None = None,
        **inputs: Any,
    ) -> MarkedText:
        """Returns what `ChatTemplate.render` makes of a chat, marked where messages, tools or variables need it."""
        mark = self.mark_for(messages, inputs)
        if mark:
            messages, inputs = self.marked_messages(messages, mark), self._marked(inputs, mark)
        rendered = self._template.render(messages, add_generation_prompt=add_generation_prompt, now=now, **inputs)
        return MarkedText(rendered.replace(escaped(mark), mark) if mark else rendered, mark)

    def render_unfinished(self, messages: Messages, *, now: datetime | None = None, **inputs: Any) -> MarkedText:
        """Returns a chat up to the last character of its last message, so that what is generated continues that message.

        Raises TemplateError where that message has no text, or where the template does not write it as it is.
        """
        end = unused_character(_texts_in([messages, inputs]))
        unfinished = [*messages[:-1], *(_with_end(message, end) for message in messages[-1:])]
        rendered = self.render(unfinished, add_generation_prompt=False, now=now, **inputs)
        before, found, _ = rendered.marked.rpartition(end)
        if not found:
            raise TemplateError(
                "the chat template does not write the last message as it is, so that it cannot be continued",
                next_step="Let the last message be an assistant's, with a text.",
            )
        return MarkedText(before, rendered.mark)

    def encode(self, text: MarkedText, *, follows_text: bool = False) -> list[int]:
        """Returns the tokens of a rendered chat, or of a part of it that follows another part."""
        return encode_marked(self._tokenizer, text, follows_text=follows_text)

    def mark_for(self, messages: Messages, inputs: Mapping[str, Any] | None = None) -> str:
        """Returns the character that marks a chat, or "" where there is nothing to mark."""
        in_messages = (self._texts_of(message).cuts(text) for message in messages for text in _texts_in(message))
        in_names = (self._is_forged(message.get(key)) for message in messages for key in _NAMES)
        in_inputs = (self._elsewhere.cuts(text) for text in _texts_in(inputs))
        return unused_character(_texts_in([messages, inputs])) if any(chain(in_messages, in_names, in_inputs)) else ""

    def marked_messages(self, messages: Messages, mark: str) -> list[Mapping[str, Any]]:
        """Returns the messages with marks; "" marks nothing."""
        return [self._marked_message(message, mark) for message in messages]

    def marked_answer(self, text: str, mark: str) -> str:
        """Returns the text of an assistant's message with marks; "" marks nothing."""
        return self._in_answers.marked(text, mark) if mark else text

    def _texts_of(self, message: Mapping[str, Any]) -> TokenTexts:
        return self._in_answers if message.get("role") in _ANSWERING_ROLES else self._elsewhere

    def _marked_message(self, message: Mapping[str, Any], mark: str) -> Mapping[str, Any]:
        marked: Mapping[str, Any] = self._marked(message, mark, self._texts_of(message))
        forged = [key for key in _NAMES if mark and self._is_forged(message.get(key))]
        return {**marked, **{key: _cut(message[key], mark) for key in forged}} if forged else marked

    def _is_forged(self, name: object) -> bool:
        """Whether a role or name that the template does not know is a part of a control token's text."""
        return isinstance(name, str) and name not in self._common and self._elsewhere.has_inside(name)

    def _marked(self, value: Any, mark: str, texts: TokenTexts | None = None) -> Any:
        found = texts or self._elsewhere
        return _changed(value, lambda text: found.marked(text, mark)) if mark else value


def _with_end(message: Mapping[str, Any], end: str) -> Mapping[str, Any]:
    """Returns a message with a character behind its text, behind the last one where its content has several parts."""
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": content + end}
    if isinstance(content, list) and content and isinstance(content[-1], dict) and isinstance(content[-1].get("text"), str):
        return {**message, "content": [*content[:-1], {**content[-1], "text": content[-1]["text"] + end}]}
    return message


def _cut(name: str, mark: str) -> str:
    """Returns a name with a mark behind its first letter."""
    cut = len(name) - len(name.lstrip()) + 1
    return name[:cut] + mark + name[cut:]


def _texts_in(value: object, depth: int = MAX_INPUT_DEPTH) -> Iterator[str]:
    """Yields all texts inside of a value, keys too; what is nested more deeply than templates accept is left to them."""
    if isinstance(value, str):
        yield value
    elif depth:
        unpacked = mapping_of(value)
        items = value if isinstance(value, (list, tuple)) else ()
        for item in items if unpacked is None else (*unpacked.keys(), *unpacked.values()):
            yield from _texts_in(item, depth - 1)


def _changed(value: Any, change: Callable[[str], str], depth: int = MAX_INPUT_DEPTH) -> Any:
    """Returns a copy of a value in which every text is changed, keys too."""
    if isinstance(value, str):
        return change(value)
    unpacked = mapping_of(value) if depth else None
    if unpacked is not None:
        return {_changed(key, change, depth - 1): _changed(item, change, depth - 1) for key, item in unpacked.items()}
    if isinstance(value, (list, tuple)) and depth:
        copies = [_changed(item, change, depth - 1) for item in value]
        return copies if isinstance(value, list) else tuple(copies)
    return value
