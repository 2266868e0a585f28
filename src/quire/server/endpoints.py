"""What each path answers. A request goes this way:

gate          name, host, key                                              401, 403
reading       is the server up, and has it room?                           429, 503
read_body     size, type, strict JSON                                      400, 413, 415
read_...      fields, template, tokens, the engine's checks, in a worker   400, 404
Answer        admission, headers, then steps of the engine                 429
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from quire import __version__
from quire.server.answers import Answer
from quire.server.body import declared_bytes, read_body
from quire.server.capabilities import CAPABILITIES
from quire.server.chat import read_chat
from quire.server.completions import read_completion
from quire.server.errors import ApiError, Refusal
from quire.server.gate import TENANT
from quire.server.json_body import Fields, parse_body
from quire.server.kv_endpoints import KVEndpoints
from quire.server.messages.count import counted_tokens
from quire.server.messages.read import read_message
from quire.server.metrics import CONTENT_TYPE
from quire.server.openapi import openapi
from quire.server.render import Call, to_json
from quire.server.responses.create import counted_input, num_named_bytes, read_response
from quire.server.responses.stored_endpoints import StoredEndpoints
from quire.server.score import read_score
from quire.server.service import Service
from quire.server.tokens import detokenized, tokenized
from quire.server.told import Told

Read = Callable[[Fields, Service, str], Call]
"""Translates the request of one API; raises ApiError or RequestError for what cannot be answered."""

_LISTED = (
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "POST /v1/messages",
    "POST /v1/messages/count_tokens",
    "POST /v1/responses",
    "POST /v1/responses/input_tokens",
    "GET /v1/responses/{id}",
    "DELETE /v1/responses/{id}",
    "POST /v1/responses/{id}/cancel",
    "GET /v1/responses/{id}/input_items",
    "POST /v1/score",
    "GET /v1/models",
    "GET /v1/models/{name}",
    "POST /tokenize",
    "POST /detokenize",
    "GET /v1/kv/map",
    "GET /v1/kv/holdings",
    "GET /v1/kv/ledger",
    "GET /v1/kv/explain/{id}",
    "GET /health",
    "GET /ready",
    "GET /metrics",
    "GET /version",
    "GET /openapi.json",
)


class _Direct:
    """A handler as an ASGI application: starlette then passes on what an answer sends without a coroutine for each piece."""

    def __init__(self, handler: Callable[[Request], Awaitable[ASGIApp]]) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self._handler(Request(scope, receive))
        await answer(scope, receive, send)


class Endpoints:
    """The handlers of one server."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._description = to_json(openapi(service.limits))
        self._reads: dict[str, Read] = {
            "/v1/chat/completions": read_chat,
            "/v1/completions": read_completion,
            "/v1/messages": read_message,
            "/v1/score": read_score,
        }

    def router(self) -> Router:
        """Returns the routes. No path is redirected to another."""
        generated = [Route(path, _Direct(self._generate), methods=["POST"]) for path in self._reads]
        routes: list[BaseRoute] = [
            *generated,
            Route("/v1/messages/count_tokens", self._count_tokens, methods=["POST"]),
            Route("/v1/responses", _Direct(self._respond), methods=["POST"]),
            Route("/v1/responses/input_tokens", self._count_input, methods=["POST"]),
            *StoredEndpoints(self._service).routes(),
            Route("/v1/models", self._models),
            Route("/v1/models/{name:path}", self._model),
            Route("/tokenize", self._tokenize, methods=["POST"]),
            Route("/detokenize", self._detokenize, methods=["POST"]),
            Route("/health", self._health),
            Route("/ready", self._ready),
            Route("/metrics", self._metrics),
            Route("/version", self._version),
            Route("/openapi.json", self._openapi),
            Route("/", self._index),
            *KVEndpoints(self._service).routes(),
        ]
        return Router(routes, redirect_slashes=False)

    # -- answers of the engine -------------------------------------------------------

    async def _generate(self, request: Request) -> Any:
        read = self._reads[request.scope["path"]]
        with self._reading(request):
            call = await self._read(request, read)
        return Answer(call, self._service)

    async def _respond(self, request: Request) -> Any:
        with self._reading(request):
            call = await self._read_turn(request, read_response)
        return Answer(call, self._service)

    def _reading(self, request: Request) -> AbstractContextManager[None]:
        return self._service.reading(request.scope[TENANT], declared_bytes(request))

    async def _read(self, request: Request, read: Callable[[Fields, Service, str], Any]) -> Any:
        """Returns what a request asks for, read in a worker if it is large."""
        service, tenant = self._service, request.scope[TENANT]
        body = await read_body(request, service.limits)
        return await service.workers.run(len(body), lambda: read(parse_body(body, service.limits), service, tenant))

    async def _read_turn(self, request: Request, read: Callable[[Fields, Service, str], Any]) -> Any:
        """Returns what a request asks for that may name what is kept: that counts when it is decided where to read it."""
        service, tenant = self._service, request.scope[TENANT]
        body = await read_body(request, service.limits)

        def parsed() -> tuple[Fields, int]:
            fields = parse_body(body, service.limits)
            return fields, len(body) + num_named_bytes(fields, service, tenant)

        fields, num_bytes = await service.workers.run(len(body), parsed)
        return await service.workers.run(num_bytes, lambda: read(fields, service, tenant))

    # -- answers of the server -------------------------------------------------------

    async def _count_tokens(self, request: Request) -> Any:
        return await self._tell(request, counted_tokens)

    async def _tokenize(self, request: Request) -> Any:
        return await self._tell(request, tokenized)

    async def _detokenize(self, request: Request) -> Any:
        return await self._tell(request, detokenized)

    async def _tell(self, request: Request, read: Callable[[Fields, Service, str], Told]) -> Any:
        """Returns the answer, written where the request is read: it may be as large."""
        self._service.require_open()
        return await self._read(request, lambda *asked: _told(read(*asked)))

    async def _count_input(self, request: Request) -> Any:
        self._service.require_open()
        return await self._read_turn(request, lambda *asked: _told(counted_input(*asked)))

    async def _models(self, _request: Request) -> Response:
        names = self._service.model.names
        cards = [self._card(name) for name in names]
        return _json({"object": "list", "data": cards, "has_more": False, "first_id": names[0], "last_id": names[-1]})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._service.model.names:
            raise ApiError(
                "there is no model of this name here",
                next_step="GET /v1/models lists the names.",
                refusal=Refusal(status=404, param="model", code="model_not_found"),
            )
        return _json(self._card(name))

    def _card(self, name: str) -> dict[str, Any]:
        """Returns what clients of both vendors look for; the context is what one request can really use."""
        service = self._service
        return {
            "id": name,
            "object": "model",
            "created": service.model.created,
            "owned_by": "quire",
            "type": "model",
            "display_name": name,
            "created_at": datetime.fromtimestamp(service.model.created, UTC).isoformat().replace("+00:00", "Z"),
            "lifecycle": "active",
            "capabilities": dict(CAPABILITIES),
            "root": service.model.names[0],
            "max_model_len": service.max_context,
            "context_length": service.max_context,
            "max_input_tokens": service.max_context - 1,
            "max_tokens": service.max_context - 1,
            "meta": {"n_ctx": service.max_context},
        }

    async def _health(self, _request: Request) -> Response:
        trouble = self._service.trouble
        return _json(
            {"status": "ok"} if trouble is None else {"status": "failing", "reason": trouble}, 200 if trouble is None else 503
        )

    async def _ready(self, _request: Request) -> Response:
        reason = "the server is shutting down" if self._service.is_draining else self._service.trouble
        return _json(
            {"status": "ready"} if reason is None else {"status": "not ready", "reason": reason}, 200 if reason is None else 503
        )

    async def _metrics(self, _request: Request) -> Response:
        return Response(self._service.metrics.page(), media_type=CONTENT_TYPE)

    async def _version(self, _request: Request) -> Response:
        return _json({"version": __version__})

    async def _openapi(self, _request: Request) -> Response:
        return Response(self._description, media_type="application/json")

    async def _index(self, _request: Request) -> Response:
        return _json({"name": "quire", "version": __version__, "time": int(time.time()), "endpoints": _LISTED})


def _told(told: Told) -> Response:
    return _json(told.body, headers=told.headers)


def _json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json(value), status_code=status, media_type="application/json", headers=headers)
