"""`POST /v1/messages`: the request as Anthropic's clients spell it, and what it asks of the engine."""

from __future__ import annotations

from dataclasses import replace

from quire.server.diagnostics import comparison_with
from quire.server.diagnostics_notes import NoteAuthor
from quire.server.errors import refuse
from quire.server.fields import ignored_header
from quire.server.json_body import Fields
from quire.server.messages.fields import MessageFields, read_message_fields
from quire.server.messages.prompts import UNSUPPORTED_TOOLS, PromptParts, prompt_parts
from quire.server.messages.render import MessageHead, MessageRenderer
from quire.server.messages.tools import forces_tool
from quire.server.planning import plan, wish_of
from quire.server.prompts import salted
from quire.server.render import Call, new_id
from quire.server.service import Service
from quire.server.told import headers_of


def read_message(fields: Fields, service: Service, tenant: str) -> Call:
    """Returns the call for a request; raises ApiError or RequestError for what cannot be answered."""
    request, ignored = read_message_fields(fields)
    head = MessageHead(message_id=new_id("msg_"), model=service.model.name_for(request.model))
    wish = wish_of(request, service, tenant, logprobs=None, max_tokens=_max_tokens(request))
    parts = prompt_parts(request, service)
    _refuse_tools(request, parts)
    chat = parts.rendered(service, service.text_bound)
    generation = plan([salted(chat.prompt, request)], replace(wish, reports_prompt=request.stream is True), service)
    note = NoteAuthor(digester=service.digester, owner=tenant).note(
        head.message_id, generation.groups, service.digester.chat(chat.messages, chat.inputs)
    )
    previous_id = None if request.diagnostics is None else request.diagnostics.previous_message_id
    comparison = comparison_with(previous_id, note, service.notes, service.source.block_size)
    renderer = MessageRenderer(head, generation, service.source.block_size, comparison)
    return Call(
        generation=generation,
        renderer=renderer,
        stream=renderer if request.stream is True else None,
        headers=headers_of(generation, ignored_header([*ignored, *parts.ignored], service.limits)),
        note=note,
    )


def _max_tokens(request: MessageFields) -> int:
    if request.max_tokens is None or request.max_tokens < 0:
        raise refuse(
            "max_tokens is missing or negative",
            "Send how many tokens the answer may have, or 0 to compute the prompt alone.",
            param="max_tokens",
        )
    return request.max_tokens


def _refuse_tools(request: MessageFields, parts: PromptParts) -> None:
    place = "tool_choice" if forces_tool(request.tool_choice) else parts.tool_place
    if place is not None:
        verb = "holds" if place.startswith("messages") else "asks for"
        raise refuse(
            f"{place} {verb} tool calls, which this server does not support yet",
            "Leave tools, calls and their results out.",
            param=place,
            code=UNSUPPORTED_TOOLS,
        )
