"""`/v1/messages` with other chat templates: what each one reads, tools and thoughts among it, and how it wants its turns."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from quire.engine.frontend import Frontend
from quire.models import bundled
from quire.server.limits import Limits
from quire.server.messages.conversation import ConversationReader
from support.agent import CALLED, HOSTED, TOOL, num_prompt
from support.served import served

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
TEMPLATE = """
{%- if tools %}{% for tool in tools %}{{ "TOOL " + tool | tojson + "\\n" }}{% endfor %}{% endif -%}
{%- for message in messages -%}
{{ "<|" + message.role + "|>" }}
{%- if message.reasoning_content %}{{ "<think>" + message.reasoning_content + "</think>" }}{% endif -%}
{{ message.content or "" }}
{%- if message.tool_calls %}{% for call in message.tool_calls %}{{ "CALL " + call.function | tojson }}{% endfor %}{% endif -%}
{{ "<|end|>" }}
{%- endfor -%}
{%- if enable_thinking is defined %}{{ "THINK " + (enable_thinking | string) }}{% endif -%}
{%- if reasoning_effort is defined %}{{ "EFFORT " + reasoning_effort }}{% endif -%}
{%- if add_generation_prompt %}{{ "<|assistant|>" }}{% endif -%}
"""

ALTERNATING = """
{%- if messages[0].role == "system" -%}
{{- "<|system|>" + messages[0].content + "<|end|>" -}}{%- set messages = messages[1:] -%}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role != ("user", "assistant")[loop.index0 % 2] %}{{ raise_exception("Roles must alternate.") }}{% endif -%}
{{- "<|" + message.role + "|>" + message.content + "<|end|>" -}}
{%- endfor -%}
{{- "<|assistant|>" if add_generation_prompt -}}
"""


def post(http: httpx2.Client, path: str = "/v1/messages", **fields: object) -> httpx2.Response:
    return http.post(path, json={"messages": QUESTION, "temperature": 0, "max_tokens": 4, **fields})


def count(http: httpx2.Client, **fields: object) -> httpx2.Response:
    return post(http, "/v1/messages/count_tokens", **fields)


@contextmanager
def served_with(template: str, directory: Path) -> Iterator[tuple[httpx2.Client, Frontend]]:
    """Serves the bundled model with another template."""
    model = directory / "model"
    shutil.copytree(Path(bundled.__file__).parent, model, ignore=shutil.ignore_patterns("*.py", "*.png", "__pycache__"))
    (model / "chat_template.jinja").write_text(template)
    with served(model) as running, httpx2.Client(base_url=running.url, timeout=60) as http:
        yield http, running.service.engine.frontend


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx2.Client, Frontend]]:
    """A server whose template reads tools, reasoning and a switch for thinking."""
    with served_with(TEMPLATE, tmp_path_factory.mktemp("thinker")) as thinker:
        yield thinker


def test_template_that_wants_turns_to_alternate_gets_them(tmp_path: Path) -> None:
    inline = {"role": "system", "content": "Be kind."}
    messages = [QUESTION[0], inline, QUESTION[0], {"role": "assistant", "content": "Paris"}, QUESTION[0]]
    with served_with(ALTERNATING, tmp_path) as (http, frontend):
        answer = post(http, system="Be brief.", messages=messages)
        asked = QUESTION[0]["content"]
        twice = [{"type": "text", "text": asked}] * 2
        expected = frontend.chat_prompt(
            [{"role": "system", "content": "Be brief.\n\nBe kind."}, {"role": "user", "content": twice}, *messages[3:]], {}
        )
        assert num_prompt(answer) == len(expected.token_ids)
        assert (expected.text or "").startswith(f"<|system|>Be brief.\n\nBe kind.<|end|><|user|>{asked} {asked}<|end|>")
        assert post(http, messages=[{"role": "assistant", "content": "Hi"}, QUESTION[0]]).status_code == 400


@pytest.mark.parametrize(("kind", "value"), [("enabled", True), ("adaptive", True), ("between_tools", True), ("disabled", False)])
def test_thinking_is_the_switch_of_the_template(thinker: tuple[httpx2.Client, Frontend], kind: str, value: bool) -> None:
    http, frontend = thinker
    expected = frontend.chat_prompt(QUESTION, {"variables": {"enable_thinking": value}})
    answer = post(http, thinking={"type": kind})
    assert f"THINK {value}" in (expected.text or "")
    assert count(http, thinking={"type": kind}).json()["input_tokens"] == len(expected.token_ids) == num_prompt(answer)
    assert "x-quire-ignored" not in answer.headers


def test_effort_is_what_the_template_reads(thinker: tuple[httpx2.Client, Frontend]) -> None:
    http, frontend = thinker
    expected = frontend.chat_prompt(QUESTION, {"variables": {"reasoning_effort": "high"}})
    answer = post(http, output_config={"effort": "high"})
    assert "EFFORT high" in (expected.text or "")
    assert num_prompt(answer) == len(expected.token_ids)
    assert "x-quire-ignored" not in answer.headers


def test_thoughts_are_replayed_where_the_template_reads_them(thinker: tuple[httpx2.Client, Frontend]) -> None:
    http, frontend = thinker
    blocks = [
        {"type": "thinking", "thinking": "Rome is in Italy.", "signature": "s"},
        {"type": "redacted_thinking", "data": "xyz"},
        {"type": "text", "text": "Rome"},
    ]
    turns = [*QUESTION, {"role": "assistant", "content": blocks}, *QUESTION]
    read_by_template = [*QUESTION, {"role": "assistant", "content": "Rome", "reasoning_content": "Rome is in Italy."}, *QUESTION]
    expected = frontend.chat_prompt(read_by_template, {})
    assert "<think>Rome is in Italy.</think>Rome" in (expected.text or "")
    assert count(http, messages=turns).json()["input_tokens"] == len(expected.token_ids)
    named = post(http, messages=turns).headers["x-quire-ignored"]
    assert named == "messages.content.signature, messages.content.redacted_thinking"


def _conversation(rng: random.Random) -> dict[str, object]:
    """Returns a conversation in any of the spellings of the API."""
    words = ("sea", "Paris", "<|end|>", "\u00e9t\u00e9", "\n\n", "12:00", "\U0001f600")

    def text() -> str:
        return " ".join(rng.choices(words, k=rng.randint(1, 12)))

    def content() -> object:
        blocks = [{"type": "text", "text": text(), "cache_control": {"type": "ephemeral"}} for _ in range(rng.randint(1, 3))]
        return rng.choice((text(), blocks))

    turns = [
        {"role": rng.choice(("user", "user", "assistant", "system")), "content": content()} for _ in range(rng.randint(0, 6))
    ]
    return {
        "system": rng.choice((None, text(), [{"type": "text", "text": text()}])),
        "messages": [*turns, {"role": "user", "content": content()}],
        "thinking": rng.choice((None, {"type": "adaptive"}, {"type": "disabled"})),
    }


def test_count_is_that_of_the_answer_for_any_conversation(http: httpx2.Client, thinker: tuple[httpx2.Client, Frontend]) -> None:
    rng = random.Random(20)
    for each in (http, thinker[0]):
        for _ in range(40):
            conversation = _conversation(rng)
            answer = post(each, **conversation, max_tokens=1)
            assert count(each, **conversation).json() == {"input_tokens": num_prompt(answer)}


def test_tools_are_counted_as_the_template_shows_them(thinker: tuple[httpx2.Client, Frontend]) -> None:
    http, frontend = thinker
    function = {"name": TOOL["name"], "description": TOOL["description"], "parameters": TOOL["input_schema"]}
    expected = frontend.chat_prompt(
        ConversationReader(Limits()).read(None, CALLED), {"tools": [{"type": "function", "function": function}]}
    )
    tools = [{**TOOL, "cache_control": {"type": "ephemeral"}}, HOSTED]
    assert count(http, messages=CALLED, tools=tools).json() == {"input_tokens": len(expected.token_ids)}
    assert count(http, messages=CALLED).json()["input_tokens"] < len(expected.token_ids)
    assert count(http, messages=CALLED[:2]).status_code == 200
    assert post(http, messages=CALLED, tools=tools).status_code == 400
