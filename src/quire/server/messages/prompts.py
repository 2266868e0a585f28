"""From the fields of a message to the prompt: the parts that a chat template gets, and what it makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quire.errors import TemplateError
from quire.server.chat_messages import ChatEnd, Message, RenderedChat, render_chat
from quire.server.errors import refuse
from quire.server.messages.conversation import ConversationReader, with_system_in_front
from quire.server.messages.fields import MessageFields
from quire.server.messages.tools import ToolReader
from quire.server.service import Service
from quire.server.text_bound import TextBound
from quire.text.template_inputs import TemplateInputs

UNSUPPORTED_TOOLS = "unsupported_tools"


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

    def rendered(self, service: Service, bound: TextBound | None = None) -> RenderedChat:
        """Returns the chat with its prompt; raises RequestError or ApiError where the model's template cannot render it.

        Raises ApiError too where the chat is longer than `bound`.

        A conversation that ends with a text of the assistant ends the prompt: the answer goes on with it.
        """
        inputs = TemplateInputs(variables=self.variables)
        if self.tools:
            inputs["tools"] = self.tools
        frontend = service.engine.frontend
        is_unfinished = any(last["role"] == "assistant" and "tool_calls" not in last for last in self.messages[-1:])
        end = ChatEnd.UNFINISHED if is_unfinished else ChatEnd.ANSWER
        try:
            return render_chat(frontend, self.messages, inputs, end=end, bound=bound)
        except TemplateError:
            closed_up = with_system_in_front(self.messages)
            if closed_up == self.messages:
                raise
            return render_chat(frontend, closed_up, inputs, end=end, bound=bound)


def prompt_parts(request: MessageFields, service: Service) -> PromptParts:
    """Returns the parts of a request's prompt; raises ApiError that names the place of what cannot be read."""
    reader = ConversationReader(service.limits)
    messages = reader.read(request.system, request.messages)
    tools = ToolReader(service.limits, reader.dropped).tools(request.tools)
    variables, unread = _variables(request, service)
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


def _variables(request: MessageFields, service: Service) -> tuple[dict[str, Any], list[str]]:
    """Returns the variables with which templates switch thinking, and the names of fields for which this one has none."""
    wanted: dict[str, tuple[str, Any]] = {}
    if request.thinking is not None:
        wanted["thinking"] = "enable_thinking", request.thinking.type != "disabled"
    if request.output_config is not None and request.output_config.effort is not None:
        wanted["output_config.effort"] = "reasoning_effort", request.output_config.effort
    read = {name: variable for name, variable in wanted.items() if service.engine.frontend.template_reads(variable[0])}
    return dict(read.values()), [name for name in wanted if name not in read]
