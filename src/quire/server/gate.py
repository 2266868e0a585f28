"""What every request passes before any route sees it: its name, the host it asks for, its key. And what every error becomes."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from quire.server.auth import ApiKeys
from quire.server.errors import ApiError, Refusal, api_error, error_body, log_defect, not_served
from quire.server.hosts import AllowedHosts
from quire.server.observer import Observer
from quire.server.request_record import REFUSAL, REQUEST_ID

TENANT = "quire.tenant"
"""Key of the scope: whose cache a request uses."""

_Message = MutableMapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The outermost ASGI application. Default-deny: a path is looked up only after host and key were accepted."""

    app: ASGIApp
    keys: ApiKeys
    hosts: AllowedHosts
    observer: Observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"a connection of type {scope['type']} is not served")
        scope[REQUEST_ID] = request_id = f"req_{os.urandom(12).hex()}"
        sender, began_s = _Sender(send, request_id), time.perf_counter()
        try:
            await self._answer(scope, receive, sender)
        finally:
            self.observer.note(scope, sender.status, began_s)

    async def _answer(self, scope: Scope, receive: Receive, sender: _Sender) -> None:
        try:
            self.hosts.check(scope["headers"])
            scope[TENANT] = self.keys.tenant_of(scope["path"], scope["headers"])
            scope["app"] = self  # starlette then raises its 404 and 405 instead of answering them
            await self.app(scope, receive, sender)
        except ClientDisconnect:
            return
        except Exception as error:
            if sender.status is not None:
                raise
            if not isinstance(error, HTTPException):
                log_defect(error, scope[REQUEST_ID])
            scope[REFUSAL] = refusal = _of_any(error, scope["path"])
            await send_error(scope, sender, refusal)


class _Sender:
    """Sends the answer of one request, under its name."""

    def __init__(self, send: Send, request_id: str) -> None:
        self.status: int | None = None  # once an answer has begun
        self._send = send
        self._headers = _headers(
            {
                "x-request-id": request_id,
                "request-id": request_id,
                "x-content-type-options": "nosniff",
                "cache-control": "no-store",
            }
        )

    def __call__(self, message: _Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *self._headers]
        return self._send(message)


async def send_error(scope: Scope, send: Callable[[_Message], Awaitable[None]], error: ApiError) -> None:
    """Answers a request with an error."""
    body = error_body(error, scope["path"], scope[REQUEST_ID])
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.refusal.headers}
    await send({"type": "http.response.start", "status": error.refusal.status, "headers": _headers(headers)})
    await send({"type": "http.response.body", "body": body})


def _headers(names: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for name, value in names.items()]


def _of_any(error: Exception, path: str) -> ApiError:
    if not isinstance(error, HTTPException):
        return api_error(error)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return ApiError(
            "this path does not take this method",
            limit=allowed,
            next_step="Use one of these.",
            refusal=Refusal(status=405, code="method_not_allowed", headers={"allow": allowed}),
        )
    return not_served(path)
