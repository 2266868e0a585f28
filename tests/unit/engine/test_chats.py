"""Messages as they are passed to a chat: told apart, checked, and never ignored in part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from quire.engine.chats import messages_of, require_known_inputs, split_conversations
from quire.errors import RequestError


@dataclass
class Said:
    role: str
    content: str


def test_one_conversation_and_many_are_told_apart() -> None:
    one, two = {"role": "user", "content": "a"}, {"role": "user", "content": "b"}
    assert split_conversations([one, two]) == [[one, two]]
    assert split_conversations([[one], [two]]) == [[one], [two]]
    assert split_conversations(([one], (two,))) == [[one], [two]]
    assert split_conversations([Said("user", "a")]) == [[one]]  # type: ignore[list-item]
    assert split_conversations([]) == []


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": ""},
        {"role": "assistant", "content": None, "tool_calls": [{}]},
        {"role": "assistant", "tool_calls": [{}]},
        {"role": "assistant", "content": [], "tool_calls": [{}]},
        {"role": "tool", "content": {"temperature": 5}},
        {"role": "tool", "content": [1, 2]},
        {"role": "user", "content": "a", "name": "Ann", "anything": {"else": 1}},
    ],
)
def test_a_message_that_says_something_stays_as_it_is(message: dict[str, Any]) -> None:
    assert messages_of([message]) == [message]


@pytest.mark.parametrize("kind", ["text", "input_text", "output_text"])
def test_parts_of_text_have_one_form(kind: str) -> None:
    (message,) = messages_of([{"role": "user", "content": ({"type": kind, "text": "a", "cache_control": 1},)}])
    assert message["content"] == [{"type": "text", "text": "a", "cache_control": 1}]


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ({"content": "a"}, "has no role"),
        ({"role": None, "content": "a"}, "has no role"),
        ({"role": 5, "content": "a"}, "has no role"),
        ({"role": "", "content": "a"}, "has no role"),
        ({"role": "user"}, "says nothing"),
        ({"role": "user", "content": None}, "says nothing"),
        ({"role": "user", "content": []}, "says nothing"),
        ({"role": "assistant", "content": None, "tool_calls": None}, "says nothing"),
        ({"role": "user", "content": 5}, "a text or a list of text parts"),
        ({"role": "system", "content": 1.5}, "a text or a list of text parts"),
        ({"role": "user", "content": True}, "a text or a list of text parts"),
        ({"role": "user", "content": {"type": "text", "text": "a"}}, "a text or a list of text parts"),
        ({"role": "user", "content": b"a"}, "a text or a list of text parts"),
        ({"role": "user", "content": ["a"]}, "a part of a message is not text"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "a part of a message is not text"),
        ({"role": "user", "content": [{"type": "text"}]}, "a part of a message is not text"),
        ({"role": "user", "content": [{"type": "text", "text": 5}]}, "a part of a message is not text"),
        ({"role": "user", "content": [{"text": "a"}]}, "a part of a message is not text"),
        ("a", "a conversation is a list of messages"),
        (None, "a conversation is a list of messages"),
    ],
)
def test_a_message_that_would_be_ignored_in_part_is_refused(message: Any, problem: str) -> None:
    with pytest.raises(RequestError, match=problem) as caught:
        messages_of([{"role": "user", "content": "a"}, message])
    assert caught.value.next_step


@pytest.mark.parametrize("given", ["hello", None, 5, {"role": "user", "content": "a"}, [[]], ["a"], [None], [5], [["a"]]])
def test_what_is_no_conversation_is_refused(given: Any) -> None:
    with pytest.raises(RequestError, match="a conversation is a list of messages"):
        split_conversations(given)


def test_an_option_of_another_name_is_refused_with_ours() -> None:
    require_known_inputs({"tools": None, "documents": None, "variables": None, "chat_template": None})
    with pytest.raises(RequestError, match="It is called variables here"):
        require_known_inputs({"chat_template_kwargs": {}})  # type: ignore[typeddict-unknown-key]
    with pytest.raises(RequestError, match="tools, documents, variables, chat_template"):
        require_known_inputs({"tool": []})  # type: ignore[typeddict-unknown-key]
