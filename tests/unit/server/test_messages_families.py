"""Conversations of Anthropic's API, rendered by templates in the manner of published model families."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quire.engine.frontend import Frontend
from quire.models import bundled
from quire.server.limits import Limits
from quire.server.messages.fields import read_message_fields
from quire.server.messages.prompts import prompt_parts
from quire.text.tokenizer import Tokenizer
from support.agent import CALLED, TOOL, agent_request

_TEMPLATES = Path(__file__).parents[2] / "support" / "chat_templates"
FAMILIES = ("gemma_3", "granite", "llama_3_1", "olmo_2", "phi_4_mini", "smollm_3")
INLINE = {"role": "system", "content": "The user has opened a file."}


def service_with(family: str, directory: Path) -> Any:
    """Returns as much of a service as renders: the bundled tokenizer with the template of a family."""
    model = directory / family
    shutil.copytree(Path(bundled.__file__).parent, model, ignore=shutil.ignore_patterns("*.py", "*.png", "*.safetensors"))
    (model / "chat_template.jinja").write_text((_TEMPLATES / f"{family}.jinja").read_text(encoding="utf-8"))
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**settings, "bos_token": settings["eos_token"]}))
    frontend = Frontend(Tokenizer.from_directory(model))
    return SimpleNamespace(engine=SimpleNamespace(frontend=frontend), limits=Limits())


def rendered(fields: dict[str, Any], service: Any) -> str:
    request, _ = read_message_fields(fields)
    return prompt_parts(request, service).rendered(service).prompt.text or ""


@pytest.mark.parametrize("family", FAMILIES)
def test_turns_of_an_agent_are_rendered_and_each_begins_with_the_one_before(family: str, tmp_path: Path) -> None:
    service = service_with(family, tmp_path)
    first = rendered(agent_request(["What is in a.py?"], []), service)
    second = rendered(agent_request(["What is in a.py?", "And in b.py?"], ["A function."]), service)
    answered = agent_request(["What is in a.py?"], ["A function."])
    assert second.startswith(rendered(answered, service)), "the answer is gone on with, and the turn behind it"
    assert first.index("You are Claude Code") < first.index("<system-reminder>") < first.index("What is in a.py?")
    assert second.index("A function.") < second.index("And in b.py?")
    assert "billing" not in second
    assert "ephemeral" not in second


@pytest.mark.parametrize("family", [*FAMILIES, "mistral"])
@pytest.mark.parametrize("place", [1, 2, 3])
def test_inline_system_message_is_rendered_wherever_it_stands(family: str, place: int, tmp_path: Path) -> None:
    service = service_with(family, tmp_path)
    body = agent_request(["What is in a.py?", "And in b.py?"], ["A function."])
    text = rendered({**body, "messages": [*body["messages"][:place], INLINE, *body["messages"][place:]]}, service)
    assert all(text.count(each) == 1 for each in (INLINE["content"], "You are Claude Code", "A function.", "And in b.py?"))


@pytest.mark.parametrize("family", ["hermes", "llama_3_1"])
def test_tools_calls_and_results_are_rendered(family: str, tmp_path: Path) -> None:
    service = service_with(family, tmp_path)
    assert service.engine.frontend.template_reads("tools")
    text = rendered({"messages": CALLED, "tools": [TOOL]}, service)
    assert text.count("get_time") >= 2
    assert all(each in text for each in ("zone", "UTC", "12:00", "Thanks."))
