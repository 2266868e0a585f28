"""`POST /tokenize` and `/detokenize`, in vLLM's form and in llama-server's."""

from __future__ import annotations

from typing import Any

from quire.server.chat import ChatPromptFields, chat_end, template_inputs
from quire.server.chat_messages import MessageReader, render_chat
from quire.server.errors import refuse
from quire.server.fields import RequestFields, ignored_fields, ignored_header, read_fields
from quire.server.json_body import Fields
from quire.server.prompts import require_ids
from quire.server.sampling_schema import Ids, MaybeMessages
from quire.server.service import Service
from quire.server.told import Told
from quire.text.tokenizer import AddSpecial, Tokenizer


class TokenizeFields(ChatPromptFields):
    """A `prompt`, a chat in `messages`, or llama-server's `content`: one of them."""

    messages: MaybeMessages = None
    prompt: str | None = None
    content: str | None = None
    add_special_tokens: bool | None = None
    add_special: bool | None = None
    return_token_strs: bool | None = None
    with_pieces: bool | None = None


class DetokenizeFields(RequestFields):
    """The `tokens` of a text."""

    tokens: Ids = None


def tokenized(fields: Fields, service: Service, _tenant: str) -> Told:
    """Returns the token ids of a text or of a rendered chat."""
    request = read_fields(TokenizeFields, fields)
    service.model.name_for(request.model)
    tokenizer, token_ids = service.source.tokenizer, _token_ids(request, service)
    answer: dict[str, Any] = {"count": len(token_ids), "max_model_len": service.max_context, "tokens": token_ids}
    if request.with_pieces is True:
        answer["tokens"] = [{"id": token_id, "piece": _piece(token_id, tokenizer)} for token_id in token_ids]
    is_named = request.return_token_strs is True
    answer["token_strs"] = [tokenizer.token_text(token_id) for token_id in token_ids] if is_named else None
    return _told(answer, request, service)


def detokenized(fields: Fields, service: Service, _tenant: str) -> Told:
    """Returns the text of token ids, special tokens written out, under both names that clients look for."""
    request = read_fields(DetokenizeFields, fields)
    service.model.name_for(request.model)
    if not isinstance(request.tokens, list) or len(request.tokens) > service.limits.text_ids:
        raise refuse(f"tokens must be a list of at most {service.limits.text_ids} token ids", "Send integers.", param="tokens")
    require_ids(request.tokens, service, "tokens")
    text = service.source.tokenizer.decode(request.tokens, skip_special=False)
    return _told({"prompt": text, "content": text}, request, service)


def _told(answer: dict[str, Any], request: RequestFields, service: Service) -> Told:
    return Told(body=answer, ignored=ignored_header(ignored_fields(request), service.limits))


def _piece(token_id: int, tokenizer: Tokenizer) -> str | list[int]:
    """Returns a token as llama-server writes it: its text, or its bytes where these are no whole characters."""
    content = tokenizer.bytes_of(token_id)
    try:
        return tokenizer.token_text(token_id) if content is None else content.decode()
    except UnicodeDecodeError:
        return list(content or b"")


def _token_ids(request: TokenizeFields, service: Service) -> list[int]:
    given = [name for name in ("prompt", "content", "messages") if getattr(request, name) is not None]
    if len(given) != 1:
        raise refuse("one of prompt, messages and content is needed", "Send one of them.", param="prompt")
    if request.messages is not None:
        messages = MessageReader(service.limits).read(request.messages)
        inputs, _ = template_inputs(request, service)
        chat = render_chat(service.engine.frontend, messages, inputs, end=chat_end(request))
        return list(chat.prompt.token_ids)
    if request.content is not None:
        special = AddSpecial.YES if request.add_special is True else AddSpecial.NO
        return service.source.tokenizer.encode(request.content, special=special)
    special = AddSpecial.NO if request.add_special_tokens is False else AddSpecial.YES
    return service.source.tokenizer.encode(request.prompt or "", special=special)
