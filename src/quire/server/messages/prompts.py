"""From the fields of a message to the prompt: the parts that a chat template gets, and what it makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quire.errors import TemplateError
from quire.server.chat_messages import Message, RenderedChat, render_chat
from quire.server.errors import refuse
from quire.server.messages.conversation import ConversationReader, with_system_in_front
from quire.server.messages.fields import MessageFields
from quire.server.messages.tools import ToolReader
from quire.server.service import Service
from quire.text.template_inputs import TemplateInputs

UNSUPPORTED_TOOLS = "unsupported_tools"
_SWITCH = "enable_thinking"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptParts:
    """What the prompt of a message is made of. `tool_place` is the first place that needs tools, None without any.

    `ignored` names what has no effect.
    """

    messages: Sequence[Message]
    tools: Sequence[dict[str, Any]]
    variables: dict[str, Any]
    tool_place: str | None
    ignored: Sequence[str]

    def rendered(self, service: Service) -> RenderedChat:
        """Returns the chat with its prompt; raises RequestError or ApiError where the model's template cannot render it."""
        inputs = TemplateInputs(variables=self.variables)
        if self.tools:
            inputs["tools"] = self.tools
        frontend = service.engine.frontend
        try:
            return render_chat(frontend, self.messages, inputs)
        except TemplateError:
            closed_up = with_system_in_front(self.messages)
            if closed_up == self.messages:
                raise
            return render_chat(frontend, closed_up, inputs)


def prompt_parts(request: MessageFields, service: Service) -> PromptParts:
    """Returns the parts of a request's prompt; raises ApiError that names the place of what cannot be read."""
    reader = ConversationReader(service.limits)
    messages = reader.read(request.system, request.messages)
    tools = ToolReader(service.limits, reader.dropped).tools(request.tools)
    variables = _thinking_switch(request, service)
    unread = [] if request.thinking is None or variables else ["thinking"]
    return PromptParts(
        messages=messages,
        tools=tools,
        variables=variables,
        tool_place="tools" if tools else reader.tool_place,
        ignored=[*unread, *reader.dropped],
    )


def require_template_with_tools(parts: PromptParts, service: Service) -> None:
    """Raises ApiError for tools, calls or results that the model's chat template would leave out."""
    if parts.tool_place is not None and not service.engine.frontend.template_reads("tools"):
        raise refuse(
            f"{parts.tool_place} needs a chat template that reads tools, and this model's does not",
            "Leave tools, calls and their results out.",
            param=parts.tool_place,
            code=UNSUPPORTED_TOOLS,
        )


def _thinking_switch(request: MessageFields, service: Service) -> dict[str, Any]:
    """Returns the variable with which templates switch thinking, where the request and the model have such a switch."""
    if request.thinking is None or not service.engine.frontend.template_reads(_SWITCH):
        return {}
    return {_SWITCH: request.thinking.type != "disabled"}
