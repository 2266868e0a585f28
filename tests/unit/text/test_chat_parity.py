"""The same text as transformers renders, over the constructs that published chat templates use."""

from __future__ import annotations

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from quire.text.chat import ChatTemplate

TOOL_USE = r"""
{%- if tools %}
    {{- 'Tools:' }}
    {%- for tool in tools %}
        {{- "\n" ~ tool | tojson }}
    {%- endfor %}
{%- endif %}
{%- set state = namespace(last_question=messages | length - 1, searching=true) %}
{%- for message in messages[::-1] %}
    {%- if state.searching and message.role == "user" and message.content is string %}
        {%- set state.last_question = messages | length - 1 - loop.index0 %}
        {%- set state.searching = false %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.tool_calls %}
        {%- for call in message.tool_calls %}
            {%- if call.function is defined %}{% set call = call.function %}{% endif %}
            {{- '<call>' + call.name + ' ' }}{{ call.arguments | tojson(indent=2) }}
        {%- endfor %}
    {%- elif message.role == "tool" %}
        {%- if loop.first or messages[loop.index0 - 1].role != "tool" %}{{- '<results>' }}{% endif %}
        {{- message.content }}
        {%- if loop.last or loop.nextitem.role != "tool" %}{{- '</results>\n' }}{% endif %}
    {%- elif loop.index0 < state.last_question and '</think>' in message.content %}
        {{- message.content.split('</think>')[-1].lstrip('\n') }}
    {%- else %}
        {{- '<' + message.role + '>\n' + message.content + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<assistant>' if enable_thinking is not defined or enable_thinking else '<quick>' }}{% endif %}
"""

FILTERS = r"""
{{- bos_token }}
{%- set rest = messages[1:] if messages[0].role == 'system' else messages %}
{% for message in rest %}
  {% if loop.index0 % 2 == 1 and message.role == 'user' %}odd{% endif %}
  {%- for name, value in message.items() if name != "role" %}
    {%- if value is string %}{{- name + '=' + value | trim }}
    {%- elif value is iterable and value is not mapping %}{{- value | length }}{% else %}{{- name ~ value | tojson }}{% endif %}
    {%- if not loop.last %}{{- ", " }}{% endif %}
  {%- endfor %}
{% endfor %}
{% set asked = messages | selectattr("role", "equalto", "user") | list %}
{{ asked | map(attribute='content') | map('trim') | join('|') | upper }} {{ (asked | last).content[-3:] }}
{% filter indent(3) %}a
b{% endfilter %}
{{ [3, 1] | sort | reverse | list }}{{ {'b': 1, 'a': 2} | dictsort }}{{ "%" ~ 7 // 2 }}{{ missing | default('none') }}
{% for n in range(9) %}{% if n == 1 %}{% continue %}{% elif n > 3 %}{% break %}{% endif %}{{ n }}{% endfor %}
"""

MESSAGES = [
    {"role": "system", "content": "Be kind, \u00e9."},
    {"role": "user", "content": "  hi there "},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyo", "tool_calls": []},
    {"role": "user", "content": "q<2> & 'so'"},
    {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"x": [1, "\u00e9"]}}}]},
    {"role": "tool", "content": "42"},
    {"role": "tool", "content": "43"},
]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"a": None, "b": True, "c": 1.5}}}]


@pytest.mark.parametrize(
    ("source", "tools", "variables"),
    [
        (FILTERS, None, {}),
        (TOOL_USE, None, {}),
        (TOOL_USE, TOOLS, {}),
        (TOOL_USE, None, {"enable_thinking": False}),
        (TOOL_USE, TOOLS, {"enable_thinking": False}),
    ],
)
@pytest.mark.parametrize("num_messages", [2, 4, 7])
def test_templates_render_as_in_transformers(
    source: str, num_messages: int, tools: list[dict[str, object]] | None, variables: dict[str, object]
) -> None:
    messages = MESSAGES[:num_messages]
    for add_generation_prompt in (True, False):
        options = {"tools": tools, "add_generation_prompt": add_generation_prompt}
        theirs = render_jinja_template([messages], chat_template=source, bos_token="<s>", **options, **variables)[0][0]  # noqa: S106
        ours = ChatTemplate(source, special_tokens={"bos_token": "<s>"}).render(messages, **options, variables=variables)
        assert ours == theirs
