"""`POST /v1/chat/completions`: the request as OpenAI's and vLLM's clients spell it, and what it asks of the engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Protocol

from quire.server.chat_messages import ChatEnd, MessageReader, render_chat
from quire.server.chat_render import ChatForm, ChatRenderer
from quire.server.diagnostics_notes import NoteAuthor
from quire.server.errors import refuse
from quire.server.fields import RequestFields, SamplingFields, ignored_fields, ignored_header, read_fields, require_logprobs
from quire.server.json_body import Fields
from quire.server.limits import Limits
from quire.server.planning import plan, wish_of
from quire.server.prompts import salted
from quire.server.render import Call, Envelope, new_id
from quire.server.sampling_schema import Messages
from quire.server.service import Service
from quire.server.told import headers_of
from quire.text.template_inputs import TemplateInputs

_NO_THINKING = "none"
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ChatPromptFields(RequestFields):
    """What a chat's prompt is made of."""

    messages: Messages = None
    reasoning_effort: Effort | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[dict[str, Any]] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


class ChatFields(ChatPromptFields, SamplingFields):
    """The fields of a chat."""

    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    prompt_cache_key: str | None = None


def read_chat(fields: Fields, service: Service, tenant: str) -> Call:
    """Returns the call for a request; raises ApiError or RequestError for what cannot be answered."""
    request = read_fields(ChatFields, fields)
    model = service.model.name_for(request.model)
    num_top = _num_top(request, service.limits)
    wish = wish_of(request, service, tenant, logprobs=num_top, max_tokens=_max_tokens(request))
    reader = MessageReader(service.limits)
    inputs, ignored = template_inputs(request, service)
    messages, end = reader.read(request.messages), chat_end(request)
    chat = render_chat(service.engine.frontend, messages, inputs, end=end, bound=service.text_bound)
    generation = plan([salted(chat.prompt, request)], wish, service)
    form = ChatForm(num_top=num_top, has_usage=request.includes_usage, has_token_ids=request.return_token_ids is True)
    envelope = Envelope(kind="chat.completion", model=model, fingerprint=service.fingerprint, answer_id=new_id("chatcmpl-"))
    names = ignored_header([*ignored_fields(request), *ignored, *reader.dropped], service.limits)
    renderer = ChatRenderer(envelope, generation, form, service.source)
    return Call(
        generation=generation,
        renderer=renderer,
        stream=renderer if request.stream is True else None,
        headers=headers_of(generation, names),
        note=NoteAuthor(digester=service.digester, owner=tenant, label=request.prompt_cache_key).note(
            envelope.answer_id, generation.groups, service.digester.chat(chat.messages, chat.inputs)
        ),
    )


class TemplateFields(Protocol):
    """What a request of any API gives the template besides messages."""

    @property
    def reasoning_effort(self) -> str | None: ...
    @property
    def chat_template_kwargs(self) -> dict[str, Any] | None: ...
    @property
    def documents(self) -> Any: ...


def template_inputs(request: TemplateFields, service: Service) -> tuple[TemplateInputs, Iterator[str]]:
    """Returns what the template gets besides messages, and the names of fields that it would not read.

    A template that reads the reasoning effort gets it; in another, none of it switches thinking off where there is a switch.
    """
    variables = dict(request.chat_template_kwargs or {})
    effort, ignored, reads = request.reasoning_effort, [], service.engine.frontend.template_reads
    if effort is not None and reads("reasoning_effort"):
        variables.setdefault("reasoning_effort", effort)
    elif effort == _NO_THINKING and reads("enable_thinking"):
        variables.setdefault("enable_thinking", False)
    elif effort is not None:
        ignored.append("reasoning_effort")
    inputs = TemplateInputs(variables=variables)
    if request.documents:
        inputs["documents"] = request.documents
    return inputs, iter(ignored)


def chat_end(request: ChatPromptFields) -> ChatEnd:
    """Returns what a request wants at the end of its prompt; raises ApiError where it wants an answer and a message to go on."""
    if request.continue_final_message is not True:
        return ChatEnd.MESSAGE if request.add_generation_prompt is False else ChatEnd.ANSWER
    if request.add_generation_prompt is True:
        raise refuse(
            "continue_final_message and add_generation_prompt exclude each other",
            "Leave out one of the two.",
            param="continue_final_message",
        )
    return ChatEnd.UNFINISHED


def _num_top(request: ChatFields, limits: Limits) -> int | None:
    if request.logprobs is not True:
        if request.top_logprobs:
            raise refuse("top_logprobs needs logprobs", "Send logprobs: true.", param="top_logprobs")
        return None
    return require_logprobs("top_logprobs", request.top_logprobs, limits) or 0


def _max_tokens(request: ChatFields) -> int | None:
    name = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
    value: int | None = getattr(request, name)
    if value is not None and value < 1:
        raise refuse(f"{name} must be at least 1", "Leave it out to go on until the context is full.", param=name)
    return value
