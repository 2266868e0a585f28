"""What is passed to a chat template reaches it, or is refused: tools, documents, variables, named templates."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import pytest

from quire.errors import RequestError, TemplateError
from quire.text.chat import ChatTemplate

USER = [{"role": "user", "content": "Hi"}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]
DOCUMENTS = [{"title": "A", "text": "alpha"}]
NAMED = {
    "default": "D:{{ messages[0].content }}",
    "tool_use": "T{{ tools | length }}:{{ messages[0].content }}",
    "rag": "R{{ documents | length }}:{{ messages[0].content }}",
}


def render(source: str | dict[str, str], **inputs: Any) -> str:
    return ChatTemplate(source, special_tokens={"bos_token": "<s>"}).render(USER, **inputs)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({}, "D:Hi"),
        ({"tools": TOOLS}, "T1:Hi"),
        ({"tools": []}, "T0:Hi"),
        ({"documents": DOCUMENTS}, "R1:Hi"),
        ({"chat_template": "rag", "documents": DOCUMENTS}, "R1:Hi"),
        ({"chat_template": "default"}, "D:Hi"),
        ({"chat_template": "tool_use", "tools": TOOLS}, "T1:Hi"),
    ],
)
def test_the_inputs_choose_among_named_templates(inputs: dict[str, Any], expected: str) -> None:
    assert render(NAMED, **inputs) == expected


def test_documents_go_to_the_default_template_where_it_reads_them() -> None:
    assert render(NAMED | {"default": "D{{ documents | length }}"}, documents=DOCUMENTS) == "D1"


def test_a_name_that_the_model_lacks_is_refused_with_those_it_has() -> None:
    for name in ("tools", "{{ messages }}", 5, ["rag"]):
        with pytest.raises(TemplateError, match="default, tool_use, rag"):
            render(NAMED, chat_template=name)


def test_a_model_without_a_default_template_asks_for_a_name() -> None:
    templates = {"rag": NAMED["rag"], "other": "x"}
    assert render(templates, documents=DOCUMENTS) == "R1:Hi"
    assert render(templates, chat_template="other") == "x"
    with pytest.raises(TemplateError, match=r"none of them is the default.*rag, other.*chat_template="):
        render(templates)


def test_a_broken_template_breaks_those_who_ask_for_it_only() -> None:
    templates = {"default": "{{ messages[0].content }}", "tool_use": "{% if %}"}
    assert render(templates) == "Hi"
    with pytest.raises(TemplateError, match="syntax error"):
        render(templates, tools=TOOLS)


@pytest.mark.parametrize("kind", ["tools", "documents"])
def test_what_the_template_never_reads_is_refused(kind: str) -> None:
    values: dict[str, Any] = {kind: TOOLS if kind == "tools" else DOCUMENTS}
    with pytest.raises(TemplateError, match=f"never reads {kind}.*no template of this model"):
        render("{{ messages[0].content }}", **values)
    others = {"default": "x", "plain": "y", "mine": "{{ tools }}{{ documents }}", "too": "{% if documents or tools %}{% endif %}"}
    with pytest.raises(TemplateError, match=rf'never reads {kind}.*chat_template="mine" \(also too\)'):
        render(others, **values)
    assert render("x", **{kind: []}) == "x"
    assert render("x", **{kind: None}) == "x"


def test_tools_and_documents_together_need_a_template_that_reads_both() -> None:
    with pytest.raises(TemplateError, match=r"never reads documents.*'tool_use'.*chat_template=\"rag\""):
        render(NAMED, tools=TOOLS, documents=DOCUMENTS)


@pytest.mark.parametrize(
    "source",
    [
        "{% if tools is defined and false %}{% endif %}x",
        "{% macro m() %}{{ tools }}{% endmacro %}x",
        "{% if not tools is defined %}{% set tools = none %}{% endif %}x",
        "{% for m in messages if false %}{{ tools }}{% endfor %}x",
        "{% block a %}{{ '' if tools else '' }}{% endblock %}x",
        "{% set tools = tools or [] %}x",
        "{% set ns = namespace(t=tools) %}x",
        "{{ '' if 'tools' is defined and tools }}x",
    ],
)
def test_a_template_that_mentions_tools_anywhere_reads_them(source: str) -> None:
    assert render(source, tools=TOOLS) == "x"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].tools }}",
        "{# tools #}tools",
        "{% set tools = [] %}{{ tools }}",
        "{% macro m(tools) %}{{ tools }}{% endmacro %}{{ m(1) }}",
        "{{ {'tools': 1}['tools'] }}",
    ],
)
def test_another_thing_of_that_name_is_not_the_tools(source: str) -> None:
    with pytest.raises(TemplateError, match="never reads tools"):
        render(source, tools=TOOLS)


@pytest.mark.parametrize("kind", ["tools", "documents"])
@pytest.mark.parametrize("values", [len, "abc", {"a": 1}, [len], ["f"], [None], [1], 5, b"x", [[{}]]])
def test_tools_and_documents_are_lists_of_dictionaries(kind: str, values: object) -> None:
    with pytest.raises(TemplateError, match=f"{kind} are a list of dictionaries"):
        render("{{ tools }}{{ documents }}", **{kind: values})


@pytest.mark.parametrize(
    "name",
    ["messages", "add_generation_prompt", "raise_exception", "strftime_now", "namespace", "range", "dict", "lipsum", "bos_token"],
)
def test_a_variable_cannot_take_the_place_of_what_the_engine_gives(name: str) -> None:
    with pytest.raises(TemplateError, match=f"gets from the engine.*{name}"):
        render("{{ " + name + " is defined }}", variables={name: 1})


@pytest.mark.parametrize("name", ["tools", "documents", "chat_template"])
def test_a_variable_that_is_an_argument_of_its_own_is_sent_there(name: str) -> None:
    with pytest.raises(TemplateError, match=f"Pass {name}= itself"):
        render("{{ tools }}", variables={name: TOOLS})


def test_a_variable_that_the_template_never_reads_is_refused_with_those_it_reads() -> None:
    source = "{% if enable_thinking %}{{ bos_token }}{% endif %}{{ custom or messages[0].content }}"
    assert render(source, variables={"enable_thinking": False}) == "Hi"
    with pytest.raises(TemplateError, match=r"never reads this variable.*'enable_thinkin'.*it reads custom, enable_thinking\)"):
        render(source, variables={"enable_thinkin": False})
    with pytest.raises(TemplateError, match="it reads no variables"):
        render("x", variables={"thinking": True})


@pytest.mark.parametrize("variables", [5, "ab", ["ab"], {1: 2}])
def test_variables_are_a_mapping_of_names(variables: object) -> None:
    with pytest.raises(TemplateError, match="mapping of names"):
        render("{{ ab }}", variables=variables)


@pytest.mark.parametrize("inputs", [{"tools": TOOLS}, {"variables": {"x": 1}}, {"chat_template": "y"}])
def test_inputs_can_be_checked_before_there_are_messages(inputs: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        ChatTemplate("{{ messages }}", special_tokens={}).check(**inputs)


class Level(StrEnum):
    HIGH = "high"


@dataclass
class Point:
    x: int
    name: str


class Model:
    """What pydantic's models look like from outside."""

    def model_dump(self) -> dict[str, object]:
        return {"name": "f", "inner": Point(1, "p")}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Level.HIGH, "high"),
        (np.int64(5), "5"),
        (np.float32(1.5), "1.5"),
        (np.bool_(False), "False"),
        ((1, "a"), "(1, 'a')"),
        ({1: 2, None: "x", 0.5: True}, "{1: 2, None: 'x', 0.5: True}"),
        (OrderedDict(a=1), "{'a': 1}"),
        (Point(1, "p"), "{'x': 1, 'name': 'p'}"),
        (Model(), "{'name': 'f', 'inner': {'x': 1, 'name': 'p'}}"),
    ],
)
def test_values_of_many_types_reach_the_template_as_in_transformers(value: object, expected: str) -> None:
    assert render("{{ v }}", variables={"v": value}) == expected
