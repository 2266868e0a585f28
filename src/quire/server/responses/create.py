"""`POST /v1/responses`: the request as OpenAI's and vLLM's clients spell it, and what it asks of the engine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from quire.server.chat import template_inputs
from quire.server.chat_messages import RenderedChat, render_chat
from quire.server.diagnostics import comparison_with
from quire.server.diagnostics_notes import NoteAuthor
from quire.server.errors import ApiError, Refusal, refuse
from quire.server.fields import ignored_header, require_logprobs
from quire.server.generation import Generation
from quire.server.json_body import Fields
from quire.server.planning import plan, wish_of
from quire.server.prompts import salted
from quire.server.render import Call, new_id, to_json
from quire.server.responses.conversation import messages_of
from quire.server.responses.fields import ResponseFields, ignored_names, read_response_fields
from quire.server.responses.input_items import ItemReader, referred_ids
from quire.server.responses.render import ResponseRenderer
from quire.server.responses.response_object import ResponseFacts
from quire.server.responses.store import RESPONSE_PREFIX, Item, Place, Turn
from quire.server.responses.tools import skipped_tools
from quire.server.service import Service
from quire.server.text_bound import TextBound
from quire.server.told import Told, headers_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request that was read: its own items, the turn that it continues, and the prompt that both become."""

    request: ResponseFields
    model: str
    items: list[Item]
    previous: Turn | None
    chat: RenderedChat  # instructions first
    ignored: list[str]  # names of fields and items without effect


def read_response(fields: Fields, service: Service, tenant: str) -> Call:
    """Returns the call for a request; raises ApiError or RequestError for what cannot be answered."""
    asked = _read(fields, service, tenant, service.text_bound)
    generation = _planned(asked, service, tenant)
    place = _place_of(asked, service, tenant)
    facts = ResponseFacts(
        response_id=new_id(RESPONSE_PREFIX),
        model=asked.model,
        fingerprint=service.fingerprint,
        request=asked.request,
        sampling=generation.groups[0].submission.sampling,
        max_output_tokens=generation.max_tokens.kept,
        is_stored=place is not None,
    )
    unkept = ["store"] if asked.request.store is True and place is None else []
    author = NoteAuthor(digester=service.digester, owner=tenant, label=asked.request.prompt_cache_key)
    chat = service.digester.chat(asked.chat.messages, asked.chat.inputs)
    note = author.note(facts.response_id, generation.groups, chat)
    comparison = comparison_with(asked.request.comparison_id, note, service.notes, service.source.block_size)
    renderer = ResponseRenderer(facts, generation, service.source, place, comparison)
    return Call(
        generation=generation,
        renderer=renderer,
        stream=renderer if asked.request.stream is True else None,
        headers=headers_of(generation, ignored_header([*asked.ignored, *unkept], service.limits)),
        note=note,
    )


def counted_input(fields: Fields, service: Service, tenant: str) -> Told:
    """Returns what `POST /v1/responses/input_tokens` answers: the tokens of the prompt that a request would have."""
    asked = _read(fields, service, tenant, None)
    body = {"object": "response.input_tokens", "input_tokens": len(asked.chat.prompt.token_ids)}
    return Told(body=body, ignored=ignored_header(asked.ignored, service.limits))


def num_named_bytes(fields: Fields, service: Service, tenant: str) -> int:
    """Returns the size of what a request names and its body does not show: a conversation, and items of others."""
    store, named = service.stored, fields.get("previous_response_id")
    if store is None:
        return 0
    previous = store.get(tenant, named) if isinstance(named, str) else None
    holders = [store.holder_of(tenant, item_id) for item_id in referred_ids(fields.get("input"))]
    of_items = sum(len(holder.turn.output) for holder in holders if holder is not None)
    return of_items + (0 if previous is None else previous.turn.num_conversation_bytes())


def _read(fields: Fields, service: Service, tenant: str, bound: TextBound | None) -> Asked:
    request = read_response_fields(fields, service.limits)
    model = service.model.name_for(request.model)
    skipped = list(skipped_tools(request.tools or (), request.tool_choice))
    store = service.stored
    find = cache(lambda item_id: None if store is None else store.item(tenant, item_id))  # a request may name one item often
    reader = ItemReader(service.limits, find)
    items = reader.read(request.input)
    previous = _turn_before(request.previous_response_id, service, tenant)
    conversation = items if previous is None else [*previous.items(), *items]
    if not 1 <= len(conversation) <= service.limits.messages:
        raise refuse(f"a conversation has 1 to {service.limits.messages} items", "Send a text as input.", param="input")
    frontend = service.engine.frontend
    messages, without_effect = messages_of(request.instructions, conversation, frontend)
    inputs, unread = template_inputs(request, service)
    return Asked(
        request=request,
        model=model,
        items=items,
        previous=previous,
        chat=render_chat(frontend, messages, inputs, bound=bound),
        ignored=[*ignored_names(request), *map(_spelled, unread), *skipped, *reader.dropped, *without_effect],
    )


def _planned(asked: Asked, service: Service, tenant: str) -> Generation:
    request = asked.request
    require_logprobs("top_logprobs", request.top_logprobs, service.limits)
    wish = wish_of(request, service, tenant, logprobs=request.num_top, max_tokens=_max_tokens(request))
    return plan([salted(asked.chat.prompt, request)], wish, service)


def _max_tokens(request: ResponseFields) -> int | None:
    """Returns the length of the answer, as OpenAI's clients spell it or as vLLM's do; 0 where only the prompt is wanted."""
    name = "max_tokens" if request.max_output_tokens is None else "max_output_tokens"
    value: int | None = getattr(request, name)
    if value is not None and value < 1:
        raise refuse(f"{name} must be at least 1", "Leave it out to go on until the context is full.", param=name)
    return 0 if request.is_prewarming else value


def _turn_before(response_id: str | None, service: Service, tenant: str) -> Turn | None:
    """Returns the turn that a request continues; raises ApiError (404) for a response that is not kept for its owner."""
    if response_id is None:
        return None
    stored = None if service.stored is None else service.stored.get(tenant, response_id)
    if stored is None:
        raise ApiError(
            "there is no such previous response" if service.stored is not None else "this server keeps no responses",
            next_step="Send the whole conversation as input.",
            refusal=Refusal(status=404, param="previous_response_id", code="previous_response_not_found"),
        )
    return stored.turn


def _place_of(asked: Asked, service: Service, tenant: str) -> Place | None:
    """Returns where the response is kept, None where it is not: OpenAI keeps what a request does not forbid."""
    if service.stored is None or asked.request.store is False:
        return None
    return Place(store=service.stored, owner=tenant, input=to_json(asked.items), previous=asked.previous)


def _spelled(name: str) -> str:
    """Returns a field of a chat as this API spells it."""
    return "reasoning.effort" if name == "reasoning_effort" else name
