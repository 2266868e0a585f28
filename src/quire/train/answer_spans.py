"""Finds the assistant's answers in the text that a chat template renders from a conversation.

    marked     <|user|>Hi<|end|><|assistant|>#1#<|end|>
    text       <|user|>Hi<|end|><|assistant|>Hello!<|end|>
                                             [    )  answer

The template is rendered twice, once with a mark in place of each answer, so the positions are known whatever text the template
adds. A template that changes an answer, drops it or repeats it renders another text, and is refused.
"""

from __future__ import annotations

import re

from quire.errors import ConfigError, RequestError
from quire.text.chat import ChatTemplate
from quire.train.documents import ASSISTANT, Document

_PRIVATE_USE = range(0xE000, 0xF900)

Span = tuple[int, int]
"""Characters [start, end) of a text."""


def find_answers(template: ChatTemplate, document: Document) -> tuple[str, list[Span]]:
    """Returns the text of a conversation and the spans of its answers; raises ConfigError if they cannot be found."""
    messages = list(document.messages)
    mark = _unused_character(document)
    marked = [
        {**message, "content": f"{mark}{index}{mark}"} if message["role"] == ASSISTANT else message
        for index, message in enumerate(messages)
    ]
    try:
        pieces = re.split(f"{mark}(\\d+){mark}", template.render(marked, add_generation_prompt=False))
        rendered = template.render(messages, add_generation_prompt=False)
    except RequestError as error:
        problem = f"{error.problem} in the training data"
        raise ConfigError(problem, given=document.where, next_step="Change the messages, or leave them out.") from error
    text, spans = pieces[0], []
    for index, after in zip(pieces[1::2], pieces[2::2], strict=True):
        answer = messages[int(index)]["content"]
        spans.append((len(text), len(text) + len(answer)))
        text += answer + after
    answers = [str(index) for index, message in enumerate(messages) if message["role"] == ASSISTANT]
    if text != rendered or pieces[1::2] != answers:
        raise ConfigError(
            "the chat template does not write the answers as they are, so their positions in the text are unknown",
            given=document.where,
            next_step="Use another template, or answers that it keeps: without white space around them and without its own tags.",
        )
    return text, spans


def _unused_character(document: Document) -> str:
    used = set().union(*document.pieces())
    free = next((chr(code) for code in _PRIVATE_USE if chr(code) not in used), None)
    if free is None:
        raise ConfigError(
            "a conversation uses every private character of Unicode, and none is left to mark its answers",
            given=document.where,
            next_step="Leave it out.",
        )
    return free
