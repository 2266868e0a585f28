"""`POST /v1/messages/count_tokens`: how many tokens a request's prompt has, tools counted where the template shows them."""

from __future__ import annotations

from quire.server.fields import ignored_header
from quire.server.json_body import Fields
from quire.server.messages.fields import read_message_fields
from quire.server.messages.prompts import prompt_parts, require_template_with_tools
from quire.server.service import Service
from quire.server.told import Told


def counted_tokens(fields: Fields, service: Service, _tenant: str) -> Told:
    """Returns the number of tokens, also of a prompt that is too long; raises ApiError or RequestError as a request does."""
    request, ignored = read_message_fields(fields)
    service.model.name_for(request.model)
    parts = prompt_parts(request, service)
    require_template_with_tools(parts, service)
    names = ignored_header([*ignored, *parts.ignored], service.limits)
    return Told(body={"input_tokens": len(parts.rendered(service).prompt.token_ids)}, ignored=names)
