"""The same text as transformers renders, for templates in the manner of published model families."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from quire.engine.chats import split_conversations
from quire.errors import TemplateError
from quire.text.chat import ChatTemplate

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": {"a": "<p>", "b": [1, 2.5, None, True]}}}
ASKED = [{"role": "user", "content": " Hi \u00e9\n"}]
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "user": ASKED,
    "system": [{"role": "system", "content": "Be kind. /no_think"}, *ASKED],
    "turns": [*ASKED, {"role": "assistant", "content": "\nyo & <b>"}, {"role": "user", "content": "and?"}],
    "answered": [*ASKED, {"role": "assistant", "content": "yo"}],
    "tool": [
        *ASKED,
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "42", "tool_call_id": "abcdefghi", "name": "f"},
    ],
    "nulls": [
        {"role": "user", "content": "Hi", "name": None, "tool_calls": None},
        {"role": "assistant", "content": "", "tool_calls": [CALL], "reasoning_content": None},
    ],
    "reasoning": [*ASKED, {"role": "assistant", "content": "4", "reasoning": "2 + 2"}],
    "tools in a message": [{"role": "system", "content": "Be kind.", "tools": '[{"name": "f"}]'}, *ASKED],
}
PROPERTIES = {
    "a": {"type": "string", "description": "x < y", "enum": ["p", "q"]},
    "b": {"type": "array", "items": {"type": "integer"}, "description": "\u00e9"},
    "c": {"type": "number", "description": "", "default": None},
}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "f",
            "description": "Does f.",
            "parameters": {"type": "object", "properties": PROPERTIES, "required": ["a"]},
        },
    },
    {
        "type": "function",
        "function": {"name": "g", "description": "", "parameters": {"type": "object", "properties": {}, "required": []}},
    },
]
DOCUMENTS = [{"doc_id": 1, "title": "A", "text": "alpha"}, {"doc_id": "b", "title": "B", "text": "beta \u00e9"}]
NOW = datetime(2031, 5, 4)  # as transformers' clock, which has no time zone


def family_template(name: str) -> str:
    """Returns a template in the manner of a family: small, our own, with the constructs that the published one is made of."""
    return (Path(__file__).parents[2] / "support" / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def theirs(source: str, messages: list[dict[str, Any]], variables: dict[str, Any], **inputs: Any) -> str | None:
    """Returns what apply_chat_template makes of the messages, nulls left out as it does; None where the template fails."""
    conversation = [{key: value for key, value in message.items() if value is not None} for message in messages]
    try:
        rendered: str = render_jinja_template([conversation], chat_template=source, **TOKENS, **inputs, **variables)[0][0]
    except Exception:
        return None
    return rendered


def ours(source: str, messages: list[dict[str, Any]], variables: dict[str, Any], **inputs: Any) -> str | None:
    (conversation,) = split_conversations(messages)
    try:
        return ChatTemplate(source, special_tokens=TOKENS).render(conversation, now=NOW, variables=variables, **inputs)
    except TemplateError:
        return None


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize(
    ("family", "inputs", "variables"),
    [
        ("mistral", {}, {}),
        ("mistral", {"tools": TOOLS}, {}),
        ("command_r_tool_use", {"tools": TOOLS}, {}),
        ("command_r_rag", {"documents": DOCUMENTS}, {}),
        ("hermes", {}, {}),
        ("hermes", {"tools": TOOLS}, {}),
        ("phi_4_mini", {}, {}),
        ("olmo_2", {}, {}),
        ("smollm_3", {}, {}),
        ("smollm_3", {"tools": TOOLS}, {"enable_thinking": False}),
        ("granite", {"tools": TOOLS, "documents": DOCUMENTS}, {"controls": {"citations": True}}),
        ("granite", {"documents": DOCUMENTS}, {}),
        ("granite", {}, {"thinking": True}),
        ("llama_3_1", {}, {"builtin_tools": ["code_interpreter", "search"]}),
        ("llama_3_1", {"tools": TOOLS}, {"tools_in_user_message": True}),
        ("gemma_3", {}, {}),
    ],
)
def test_a_family_renders_as_in_transformers(
    family: str, inputs: dict[str, Any], variables: dict[str, Any], conversation: str
) -> None:
    source, messages = family_template(family), CONVERSATIONS[conversation]
    for add_generation_prompt in (True, False):
        expected = theirs(source, messages, variables, add_generation_prompt=add_generation_prompt, **inputs)
        assert ours(source, messages, variables, add_generation_prompt=add_generation_prompt, **inputs) == expected
        assert expected is not None or conversation in {"tool", "nulls", "reasoning"}


def in_parts(*texts: str, role: str = "user") -> list[dict[str, Any]]:
    return [{"role": role, "content": [{"type": "text", "text": text} for text in texts]}]


@pytest.mark.parametrize("family", ["gemma_3", "llama_guard"])
@pytest.mark.parametrize("texts", [("How do I",), ("How do I ", " pick a lock?"), ("", "x"), ("quiremark0x", "<b>'text': 'x'")])
def test_a_family_that_reads_parts_gets_parts_as_in_transformers(family: str, texts: tuple[str, ...]) -> None:
    source, messages = family_template(family), in_parts(*texts)
    assert ours(source, messages, {}) == theirs(source, messages, {}, add_generation_prompt=True)


@pytest.mark.parametrize("family", ["olmo_2", "hermes", "llama_3_1", "mistral", "phi_4_mini"])
def test_a_family_that_reads_texts_gets_the_parts_joined_by_a_space(family: str) -> None:
    source = family_template(family)
    joined = theirs(source, [{"role": "user", "content": "How do I pick a lock?"}], {}, add_generation_prompt=True)
    assert ours(source, in_parts("How do I", "pick a lock?"), {}) == joined


def test_each_role_gets_the_form_that_the_template_reads_in_it() -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ '[' + m.content + ']' }}"
        "{% else %}{% for p in m.content %}({{ p.text }}){% endfor %}{% endif %}{% endfor %}"
    )
    messages = [*in_parts("Be", "kind.", role="system"), *in_parts("a", "b")]
    assert ours(source, messages, {}) == "[Be kind.](a)(b)"


def test_a_template_that_would_show_one_part_only_gets_them_joined() -> None:
    assert ours(
        family_template("gemma_3"), [*in_parts("Be", "kind.", role="system"), *in_parts("Hi")], {}, add_generation_prompt=False
    ) == ("<s><start_of_turn>user\nBe kind.\n\nHi<end_of_turn>\n")


def test_a_text_goes_as_a_part_to_a_template_that_would_leave_it_out() -> None:
    asked = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "yo"}]
    assert ours(family_template("llama_guard"), asked, {}) == "User: Hi\nAgent: yo\nSafety for assistant:"


def test_parts_shown_as_json_are_joined_instead() -> None:
    source = "{% for m in messages %}{{ m.content | tojson if m.content is iterable else m.content }}{% endfor %}"
    assert ours(source, in_parts("a", "b"), {}) == '"a b"'


def test_the_content_of_a_tool_call_may_be_absent_null_or_empty_as_the_template_reads_it() -> None:
    absent = "{{ 'absent' if messages[1].content is not defined else messages[1].content + 1 }}"
    null = "{{ 'null' if messages[1].content is none else 'a' + messages[1].content + 1 }}"
    empty = "{{ 'empty' + messages[1].content.strip() }}"
    for message in ({"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "assistant", "tool_calls": [CALL]}):
        for source, expected in ((absent, "absent"), (null, "null"), (empty, "empty")):
            assert ours(source, [*ASKED, message], {}) == expected


def test_reasoning_reaches_a_template_by_each_of_its_names() -> None:
    source = "{% for m in messages %}{{ m.reasoning_content }}|{{ m.thinking }};{% endfor %}"
    for name in ("reasoning_content", "thinking", "reasoning"):
        assert ours(source, [{"role": "assistant", "content": "4", name: "2 + 2"}], {}) == "2 + 2|2 + 2;"
