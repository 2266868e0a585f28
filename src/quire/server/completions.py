"""`POST /v1/completions`: text or token ids in, text out. With `echo` and `max_tokens: 0` it scores its prompts."""

from __future__ import annotations

from dataclasses import replace

from quire.server.completion_render import CompletionForm, CompletionRenderer
from quire.server.diagnostics_notes import NoteAuthor
from quire.server.errors import refuse
from quire.server.fields import SamplingFields, ignored_fields, ignored_header, read_fields, require_logprobs
from quire.server.fill_in import ends_of, with_suffix
from quire.server.json_body import Fields
from quire.server.planning import Wish, plan, wish_of
from quire.server.prompts import read_prompts, salted
from quire.server.render import Call, Envelope, new_id
from quire.server.sampling_schema import Prompts
from quire.server.service import Service
from quire.server.told import headers_of

_DEFAULT_MAX_TOKENS = 16


class CompletionFields(SamplingFields):
    """The fields of a completion."""

    prompt: Prompts = None
    suffix: str | None = None
    best_of: int | None = None
    echo: bool | None = None
    logprobs: int | None = None


def read_completion(fields: Fields, service: Service, tenant: str) -> Call:
    """Returns the call for a request; raises ApiError or RequestError for what cannot be answered."""
    request = read_fields(CompletionFields, fields)
    model = service.model.name_for(request.model)
    if request.best_of not in (None, request.n or 1):
        raise refuse("best_of must be the same as n: no choice is left out", "Leave best_of out.", param="best_of")
    num_top = require_logprobs("logprobs", request.logprobs, service.limits)
    wish = wish_of(request, service, tenant, logprobs=num_top, max_tokens=_max_tokens(request))
    has_echo = request.echo is True
    if has_echo and num_top is not None:
        wish = replace(wish, params={**wish.params, "prompt_logprobs": max(num_top, request.prompt_logprobs or 0)})
    prompt = request.prompt
    if request.suffix:
        prompt, wish = _with_gap(request, wish, service)
    generation = plan([salted(each, request) for each in read_prompts(prompt, service)], wish, service)
    form = CompletionForm(
        num_top=num_top,
        has_echo=has_echo,
        has_usage=request.includes_usage,
        has_token_ids=request.return_token_ids is True,
    )
    envelope = Envelope(kind="text_completion", model=model, fingerprint=service.fingerprint, answer_id=new_id("cmpl-"))
    renderer = CompletionRenderer(envelope, generation, form, service.source)
    return Call(
        generation=generation,
        renderer=renderer,
        stream=renderer if request.stream is True else None,
        headers=headers_of(generation, ignored_header(ignored_fields(request), service.limits)),
        note=NoteAuthor(digester=service.digester, owner=tenant).note(envelope.answer_id, generation.groups),
    )


def _with_gap(request: CompletionFields, wish: Wish, service: Service) -> tuple[str, Wish]:
    """Returns a prompt that ends where the gap begins, and the wish to stop behind it."""
    if request.echo is True:
        raise refuse("echo and suffix exclude each other", "Leave out one of the two.", param="echo")
    tokenizer = service.source.tokenizer
    prompt = with_suffix(request.prompt, request.suffix or "", tokenizer)
    stops = wish.params.get("stop_token_ids") or []
    if not isinstance(stops, list):
        return prompt, wish  # which the engine refuses
    return prompt, replace(wish, params={**wish.params, "stop_token_ids": [*stops, *ends_of(tokenizer)]})


def _max_tokens(request: CompletionFields) -> int:
    value = _DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
    if value < 0:
        raise refuse("max_tokens must not be negative", "Send 0 to score the prompt, or more.", param="max_tokens")
    return value
