"""The server's own OpenAPI file, made of the models that read requests, of one table of operations and one of errors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from quire import __version__
from quire.server.fields import UNSUPPORTED, SamplingFields
from quire.server.limits import Limits
from quire.server.openapi_answers import AnthropicError, OpenAIError
from quire.server.openapi_operations import OPERATIONS, Operation
from quire.server.sampling_schema import ranges_of

_MODE: Literal["validation"] = "validation"
_REFERENCE = "#/components/schemas/{model}"
_ERROR = "#/components/responses/{error}{status}"
_TEXT = {"type": "string"}

ERRORS: Mapping[int, str] = MappingProxyType(
    {
        400: "The request can never be answered; `param` is the field at fault.",
        401: "The request has no key that is known.",
        403: "Host or Origin names another server.",
        404: "There is no such path or model.",
        405: "The path does not take this method.",
        408: "The head of the request took too long.",
        413: "The body is too large.",
        415: "The body is encoded, or is not declared to be JSON.",
        429: "Too much is waiting; `Retry-After` is the time in which it should be done.",
        431: "The head of the request is too large.",
        500: "The engine failed at this request.",
        503: "The server is loading or ending.",
        504: "Reading the request took too long.",
    }
)
_ALWAYS = (400, 401, 403, 404, 405, 408, 429, 431, 500, 503)
_OF_BODIES = (413, 415, 504)

_HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "x-quire-ignored": "Fields that had no effect.",
        "x-quire-max-tokens": "The longest answer that fits, where less fits than was asked for.",
        "x-quire-seed": "The seed of what was drawn.",
    }
)


def openapi(limits: Limits) -> dict[str, Any]:
    """Returns the file: OpenAPI 3.1, with the schemas of all requests, answers and errors."""
    models: list[type[BaseModel]] = [*_models(), OpenAIError, AnthropicError]
    _, definitions = models_json_schema([(model, _MODE) for model in models], ref_template=_REFERENCE)
    schemas = definitions["$defs"]
    for operation in OPERATIONS:
        if operation.fields is not None:
            schemas[_request_name(operation)] = _completed(schemas[operation.fields.__name__], operation, limits)
    for model in {operation.fields for operation in OPERATIONS if operation.fields is not None}:
        del schemas[model.__name__]
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Quire", "version": __version__, "description": _about()},
        "security": [{"bearer": []}, {"key": []}],
        "paths": paths,
        "components": {"schemas": schemas, "responses": _errors(), "securitySchemes": _security()},
    }


@cache
def _models() -> tuple[type[BaseModel], ...]:
    answers = [operation.answer for operation in OPERATIONS if isinstance(operation.answer, type)]
    requests = [operation.fields for operation in OPERATIONS if operation.fields is not None]
    return tuple(dict.fromkeys([*requests, *answers]))


def _about() -> str:
    return "Fields that are not described here, and those that are null, are ignored and named in the header x-quire-ignored."


def _security() -> dict[str, Any]:
    return {"bearer": {"type": "http", "scheme": "bearer"}, "key": {"type": "apiKey", "in": "header", "name": "x-api-key"}}


def _request_name(operation: Operation) -> str:
    """Returns what the schema of a request is called: after its path."""
    return "".join(part.capitalize() for part in re.split(r"[/_]", operation.path.removeprefix("/v1"))) + "Request"


def _completed(schema: Mapping[str, Any], operation: Operation, limits: Limits) -> dict[str, Any]:
    """Returns the schema of a request with what the model of its fields does not say: ranges, refused and needed fields."""
    fields = operation.fields
    properties = {name: dict(value) for name, value in schema["properties"].items() if name not in operation.unread}
    if fields is not None and issubclass(fields, SamplingFields):
        for name, limit in ranges_of(operation.path, limits).items():
            if name in properties:
                properties[name] = _nullable({**_typed(properties[name]), **limit})
    for name, unsupported in UNSUPPORTED.items():
        meaning = f"Asks for {unsupported.what}, which is not supported yet."
        properties.setdefault(name, {"enum": [None, *unsupported.neutral], "description": meaning})
    for value in properties.values():
        value.pop("title", None)
        value.pop("default", None)
    required = {"required": list(operation.required)} if operation.required else {}
    return {**schema, "properties": properties, **required}


def _typed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the schema of a field's values without null."""
    choices: Sequence[dict[str, Any]] = schema.get("anyOf", [schema])
    return dict(next(each for each in choices if each.get("type") != "null"))


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {"summary": operation.summary, "responses": _responses(operation)}
    if operation.fields is not None:
        described["requestBody"] = {"required": True, "content": _json(_request_name(operation))}
    named = re.findall(r"{(\w+)}", operation.path)
    in_path = [{"name": name, "in": "path", "required": True, "schema": _TEXT} for name in named]
    in_query = [{"name": name, "in": "query", "schema": schema} for name, schema in operation.query.items()]
    if in_path or in_query:
        described["parameters"] = [*in_path, *in_query]
    if operation.is_public:
        described["security"] = []
    return described


def _responses(operation: Operation) -> dict[str, Any]:
    headers = _described(_HEADERS) if operation.fields is not None else {}
    answer = {"description": "The answer.", "headers": {**_names(), **headers}, "content": _content(operation)}
    answered = () if operation.answer is None else (200, *operation.further)
    statuses = (*_ALWAYS, *(_OF_BODIES if operation.fields is not None else ()))
    error = AnthropicError if operation.speaks_anthropic else OpenAIError
    responses: dict[str, Any] = {str(status): {"$ref": _ERROR.format(error=error.__name__, status=status)} for status in statuses}
    return dict(sorted((responses | {str(status): answer for status in answered}).items()))


def _content(operation: Operation) -> dict[str, Any]:
    if isinstance(operation.answer, str):
        return {operation.answer: {"schema": _TEXT}}
    streamed = {"text/event-stream": {"schema": _TEXT}} if operation.streams else {}
    return streamed if operation.answer is None else {**_json(operation.answer.__name__), **streamed}


def _errors() -> dict[str, Any]:
    """Returns every error in the form of every API."""
    return {
        f"{error.__name__}{status}": {"description": meaning, "headers": _headers_of(status), "content": _json(error.__name__)}
        for error in (OpenAIError, AnthropicError)
        for status, meaning in ERRORS.items()
    }


def _headers_of(status: int) -> dict[str, Any]:
    """Returns the headers of an error; one that no request was read for has no name."""
    further = {429: {"retry-after": "Seconds."}, 405: {"allow": "The methods of this path."}}
    names = {} if status in (408, 431) else _names(is_required=status not in (400, 429))
    return {**names, **_described(further.get(status, {}))}


def _names(*, is_required: bool = True) -> dict[str, Any]:
    name = {"description": "The name of the request.", "required": is_required, "schema": _TEXT}
    return {"x-request-id": name, "request-id": name}


def _described(headers: Mapping[str, str]) -> dict[str, Any]:
    return {name: {"description": meaning, "schema": _TEXT} for name, meaning in headers.items()}


def _json(model: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REFERENCE.format(model=model)}}}
