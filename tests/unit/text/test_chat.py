"""Chat templates: what they may do, and that nothing they try costs more than their budget."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from quire.errors import PromptTooLongError, TemplateError
from quire.text.chat import MAX_TEMPLATE_BYTES, ChatTemplate
from quire.text.rendering import MAX_PROMPT_CHARS

MESSAGES = [{"role": "user", "content": " Wo bist Du, caf\u00e9? "}, {"role": "assistant", "content": "Here"}]


def render(source: str, **more: object) -> str:
    return ChatTemplate(source, special_tokens={"bos_token": "<s>"}).render(MESSAGES, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m['content'] | trim }}{% endfor %}", None),
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": " Wo bist Du, caf\u00e9? "}'),
        ("{{ {'b': 1, 'a': [2]} | tojson(sort_keys=true, separators=(',', ':')) }}", '{"a":[2],"b":1}'),
        ("{% for m in messages %}{% if loop.index == 2 %}{% break %}{% endif %}{{ loop.length }}{% endfor %}", "2"),
        ("{% for m in messages if m.role == 'user' %}{{ m.content.strip()[-2:] }}{% endfor %}", "\u00e9?"),
        ("{% set ns = namespace(n=0) %}{% for i in range(3) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "3"),
        ("{% macro shout(x) %}{{ x | upper ~ '!' }}{% endmacro %}{{ shout('hey') }}", "HEY!"),
        ("{{ messages | map(attribute='role') | join(', ') }}", "user, assistant"),
        ("{{ messages | selectattr('role', 'equalto', 'assistant') | list | length }}", "1"),
        ("{{ ['b', 'a'] | sort | join }}{{ ('x' * 3) ~ 2 ** 3 }}{{ 'a,b'.split(',')[1] }}", "abxxx8b"),
        ("{% generation %}{{ 'answer' }}{% endgeneration %}", "answer"),
        ("{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}", "21"),
        ("{{ tools is none }} {{ tools is defined }} {{ missing is defined }}", "True True False"),
        ("{{ documents is none }} {{ documents is defined }}", "True True"),
        ("{{ 'a\nb' | indent(2) }}|{{ 'aXa'.replace('a', 'bb') }}", "a\n  b|bbXbb"),
        ("{% if strftime_now is defined %}now{% else %}fixed{% endif %}", "fixed"),
    ],
)
def test_templates_do_what_hugging_faces_do(source: str, expected: str | None) -> None:
    assert render(source) == (expected or "<s>[user]Wo bist Du, caf\u00e9?[assistant]Here")


def test_the_time_comes_from_the_caller() -> None:
    now = datetime(2031, 5, 4, tzinfo=UTC)
    assert render("{{ strftime_now('%d %b %Y') }}", now=now) == "04 May 2031"
    assert render("{{ strftime_now('%-d/%_m %H:%M %A%Z%z %%') }}", now=now) == now.replace(tzinfo=None).strftime(
        "%-d/%_m %H:%M %A %%"
    )
    with pytest.raises(TemplateError, match="odd time format"):
        render("{{ strftime_now('%999999999d') }}", now=now)


def test_variables_and_tools_reach_the_template() -> None:
    source = "{{ enable_thinking }} {{ tools[0].name }} {{ add_generation_prompt }}"
    assert render(source, variables={"enable_thinking": False}, tools=[{"name": "add"}]) == "False add True"


def test_what_a_template_raises_is_told() -> None:
    with pytest.raises(TemplateError, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


def test_what_a_template_says_ends_in_one_full_stop() -> None:
    with pytest.raises(TemplateError, match=r"messages: No system role\. Change"):
        render("{{ raise_exception('No system role.') }}")


def test_an_unknown_filter_is_named() -> None:
    with pytest.raises(TemplateError, match="line 2: No filter named 'shout'"):
        render("{{ 'a' }}\n{{ 'a' | shout }}")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ [1] | random }}", "filter random, which is refused because .*another prompt each time"),
        ("{{ 'a' | urlize }}", "filter urlize, which is refused because .*no bound"),
        ("{{ lipsum() }}", "function lipsum, which is refused because .*another prompt each time"),
        ("{{ [].append(1) }}", "list.append is refused because it changes a value in place"),
        ("{{ {}.pop('a') }}", "dict.pop is refused because it changes a value in place"),
        ("{{ 'a'.encode() }}", "str.encode is refused because a prompt is text, not bytes"),
        ("{{ ''.__class__() }}", "str.__class__ is refused because it reaches into Python"),
        ("{% autoescape true %}a{% endautoescape %}", "autoescape"),
    ],
)
def test_what_is_refused_is_refused_by_name_and_with_a_reason(source: str, said: str) -> None:
    with pytest.raises(TemplateError, match=said):
        render(source)


def test_what_is_refused_may_stand_where_it_is_never_used() -> None:
    assert render("{% if false %}{{ [1] | random }}{{ lipsum() }}{% endif %}ok") == "ok"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{{ messages[0].content + 1 }}", 'can only concatenate str (not "int") to str'),
        ("{{ messages[0].missing.more }}", "has no attribute 'missing'"),
        ("{{ unheard_of.more }}", "'unheard_of' is undefined"),
        ("{{ 1 // 0 }}", "integer division or modulo by zero"),
        ("{{ 'a' | replace }}", "missing a required argument: 'old'"),
        ("{{ [1] | random }}", "the filter random"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "exceeds its work budget"),
    ],
)
def test_a_failure_says_what_failed_and_in_which_line(line: str, said: str) -> None:
    with pytest.raises(TemplateError) as caught:
        render("{% for m in messages[:1] %}\n\n" + line + "\n{% endfor %}")
    assert said in str(caught.value)
    assert "line 3: " in str(caught.value) or "line 3, in " in str(caught.value)
    assert line in str(caught.value)


def test_a_long_line_of_a_template_is_not_repeated() -> None:
    with pytest.raises(TemplateError) as caught:
        render("x" * 5000 + "{{ 1 // 0 }}")
    assert "line 1: integer division" in str(caught.value)
    assert "xxx" not in str(caught.value)


@pytest.mark.parametrize("where", ["messages", "tools", "documents", "variables"])
def test_a_prompt_of_too_many_characters_blames_the_prompt(where: str) -> None:
    text = "x" * (MAX_PROMPT_CHARS + 1)
    given = {"messages": [{"content": text}], "tools": [{"name": text}], "documents": [{"text": text}], "variables": {"v": text}}
    inputs = {"messages": [{"content": "x"}]} | {where: given[where]}
    with pytest.raises(PromptTooLongError, match=r"the prompt is too long.*16\d{6} characters; limit: 16000000 characters"):
        ChatTemplate("{{ messages }}{{ tools }}{{ documents }}{{ v }}", special_tokens={}).render(**inputs)  # type: ignore[arg-type]


def test_a_template_that_multiplies_a_long_prompt_is_stopped() -> None:
    source = "{% for i in range(20) %}{{ messages[0].content }}{% endfor %}"
    with pytest.raises(TemplateError, match=r"writes more than a prompt may hold .*messages of 10000\d\d characters"):
        ChatTemplate(source, special_tokens={}).render([{"content": "x" * 1_000_000}])


def doubling(step: str, use: str = "") -> str:
    start = "{% set ns = namespace(x='ab', l=['a'], m=['a']) %}"
    return start + "{% for i in range(100) %}" + step + "{% endfor %}" + use


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% continue %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{{ 'a' in range(99999) }}{% endfor %}",
        "{% for i in range(99999) %}{{ 'a' is in(range(99999)) }}{% endfor %}",
        "{% for i in range(99999) %}{% set x = ('a' * 99999)[::-1] %}{% endfor %}",
        "{% set x %}{% for i in range(99999) %}" + "x" * 9999 + "{% endfor %}{% endset %}",
        "{% for a in [[]] recursive %}{{ loop([a, a]) }}{% endfor %}",
        "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(90) }}",
        "{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}",
        "{{ 'a' * 10 ** 10 }}",
        "{{ (['a' * 999999] * 999999) | join }}",
        "{{ ('a' * 99999).join(range(99999) | map('string')) }}",
        "{{ range(99999) | map('replace', '1', 'x' * 99999) | join }}",
        "{{ 2 ** (2 ** 40) }}",
        doubling("{% set ns.x = ns.x + ns.x %}"),
        doubling("{% set ns.x = ns.x ~ ns.x %}"),
        doubling("{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}"),
        doubling("{% set ns.x = ns.x.replace('a', 'aaaa') %}"),
        doubling("{% set ns.x = ns.x | replace('a', 'aaaa') %}"),
        doubling("{% set ns.l = [ns.l, ns.l] %}", "{{ ns.l }}"),
        doubling("{% set ns.l = [ns.l, ns.l] %}", "{{ ns.l | tojson }}"),
        doubling("{% set ns.l = [ns.l, ns.l] %}{% set ns.m = [ns.m, ns.m] %}", "{{ ns.l == ns.m }}"),
        doubling("{% set ns.l = {'a': ns.l, 'b': ns.l} %}", "{{ ns.l.items() }}"),
        "{{ 'a' | indent(10 ** 10) }}",
        "{{ messages | tojson(indent=10 ** 9) }}",
        "{{ messages | tojson(true, 'x' * 17) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:{w}}'.format(1, w=10 ** 9) }}",
        "{{ '{:.1000000000f}'.format(1.5) }}",
        "{{ '{x:1000000000}'.format_map({'x': 1}) }}",
        "{{ ('{0}' * 99999).format('a' * 99999) }}",
        "{{ ('<' | e).format(1, w=2) ~ ('{:999999999}' | safe).format(1) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%.1000000000f' | format(1.5) }}",
        "{{ '%*d' | format(10 ** 9, 1) }}",
        "{{ '%(a(b))1000000000d' % {'a(b)': 1} }}",
        "{{ ('%(a)s' * 99999) % {'a': 'a' * 99999} }}",
        "{{ 'a'.center(10 ** 9) ~ 'a'.ljust(10 ** 9) }}",
        "{{ 'a'.rjust(10 ** 9) }}",
        "{{ 'a'.zfill(10 ** 9) }}",
        "{{ 'a' | center(10 ** 9) }}",
        "{{ ('\t' * 99999).expandtabs(99999) }}",
        "{{ ('\t' * 99999).expandtabs(tabsize=99999) }}",
        "{{ ('a' * 99999).translate({97: 'b' * 99999}) }}",
        "{{ [1] | batch(10 ** 9, 0) | list }}",
        "{{ [1] | slice(10 ** 9) | list }}",
        "{{ 5 | round(-10 ** 9) }}",
        "{{ 5 | round(10 ** 9, 'ceil') }}",
        "{{ ('a' * 999999) | wordwrap(1) }}",
        "{{ ('<!--' * 99999) | striptags }}",
        "{{ range(99999) | map('string') | map('list') | sum(start=[]) }}",
        "{% for i in range(99999) %}{% set x = joiner(*range(99999)) %}{% endfor %}",
        "{% set d = dict.fromkeys(range(99999)) %}{% for i in range(99999) %}{% set x = d.keys() - d.keys() %}{% endfor %}",
        "{% set r = range(99999) | list %}{% for i in range(99999) %}{% set x = r.index(99998) %}{% endfor %}",
        "{% set r = range(99999) | list %}{% for i in range(99999) %}{% set x = r.count(1) %}{% endfor %}",
        "{% set r = range(99999) | list %}{% for i in range(99999) %}{% set x = r.copy() %}{% endfor %}",
        doubling("{% set ns.l = [ns.l, ns.l] %}", "{{ ns.l | pprint }}"),
        doubling("{% set ns.l = [ns.l, ns.l] %}{% set ns.m = [ns.m, ns.m] %}", "{{ [ns.l].index(ns.m) }}"),
        doubling(
            "{% set ns.l = [ns.l, ns.l] %}{% set ns.m = [ns.m, ns.m] %}",
            "{% for i in range(2) %}{{ loop.changed([ns.l, ns.m][i]) }}{% endfor %}",
        ),
        "{{" + "(" * 5000 + "1" + ")" * 5000 + "}}",
    ],
)
def test_a_template_that_loops_or_floods_is_stopped(source: str) -> None:
    with pytest.raises(TemplateError):
        render(source)


def test_a_number_that_keeps_growing_is_stopped() -> None:
    with pytest.raises(TemplateError, match="huge number"):
        render("{% set ns = namespace(n=3) %}{% for i in range(64) %}{% set ns.n = ns.n * ns.n %}{% endfor %}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1] }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'system'}) }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ '{0[a].__class__}'.format({'a': 1}) }}",
        "{{ '{0.__class__!r:>9}'.format(1) }}",
        "{{ '{x.__class__.__mro__}'.format_map({'x': 1}) }}",
        "{{ ('{0.__class__}' | safe).format(1) }}",
        "{{ ['{0.__class__}'] | map(attribute='format') | first | string }}",
        "{{ '{}'.format(range) }}",
        "{{ '%s' % raise_exception }}",
        "{{ dict.update(messages[0], {}) }}",
        "{{ dict.__subclasses__() }}",
        "{{ namespace({'__class__': 1}) }}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}",
        "{{ (1).to_bytes(999999999, 'big') }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ raise_exception.__globals__['re'] }}",
        "{{ lipsum(n=1000) }}",
        "{{ namespace(a=1) }}",
        "{{ self }}",
        "{% include 'other' %}",
        "{% import 'os' as os %}",
    ],
)
def test_ways_out_of_the_sandbox_are_closed(source: str) -> None:
    with pytest.raises(TemplateError):
        render(source)


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", print])
def test_a_template_meets_plain_values_only(value: object) -> None:
    template = ChatTemplate("{{ messages[0].content }}", special_tokens={})
    with pytest.raises(TemplateError, match="JSON values"):
        template.render([{"role": "user", "content": value}])


def test_messages_nested_without_end_are_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(TemplateError, match="nested too deeply"):
        ChatTemplate("x", special_tokens={}).render([{"content": loop}])


def test_rendering_leaves_the_callers_messages_alone() -> None:
    messages = [{"role": "user", "content": "a", "parts": [1]}]
    ChatTemplate("{% for m in messages %}{% set m = {} %}{% endfor %}", special_tokens={}).render(messages)
    assert messages == [{"role": "user", "content": "a", "parts": [1]}]


def test_a_template_of_many_bytes_is_refused() -> None:
    with pytest.raises(TemplateError, match="too large"):
        ChatTemplate("x" * (MAX_TEMPLATE_BYTES + 1), special_tokens={})


def test_errors_of_a_template_do_not_repeat_the_messages() -> None:
    with pytest.raises(TemplateError) as caught:
        render("{{ messages[0].content + 1 }}")
    assert "bist" not in str(caught.value)


def test_a_long_honest_conversation_fits_the_budget() -> None:
    source = (
        "{% set ns = namespace(all=[]) %}{% for m in messages %}{% set ns.all = ns.all + [m.content | trim] %}"
        "{% if '</think>' in m.content %}{{ m.content.split('</think>')[-1].lstrip('\n') }}{% else %}"
        "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    )
    messages = [{"role": "user", "content": "What is the capital of France? " * 5}] * 2000
    assert len(ChatTemplate(source, special_tokens={}).render(messages)) > 300_000


def test_no_rendering_leaves_anything_to_the_next_one() -> None:
    template = ChatTemplate(
        "{% set text = 'x' * messages[0].n %}{{ now is defined }} {{ strftime_now is defined }}", special_tokens={}
    )
    assert template.render([{"role": "user", "n": 1}], now=datetime(2031, 5, 4, tzinfo=UTC)) == "False True"
    for _ in range(3):  # each with a budget of its own
        assert template.render([{"role": "user", "n": 900_000}]) == "False False"
        with pytest.raises(TemplateError, match="exceeds its work budget"):
            template.render([{"role": "user", "n": 9_000_000}])


def test_renderings_in_several_threads_do_not_meet() -> None:
    template = ChatTemplate("{% for m in messages %}{{ m.content | upper }}{% endfor %}", special_tokens={})
    chats = [[{"role": "user", "content": f"text {number}"}] * 50 for number in range(40)]
    with ThreadPoolExecutor(6) as pool:
        texts = list(pool.map(template.render, chats))
    assert texts == [f"TEXT {number}" * 50 for number in range(40)]
