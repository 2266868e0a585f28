"""The application of a server whose model is still loading, and the door through which requests reach it later."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from quire.server.errors import LOADING, ApiError, Refusal
from quire.server.render import to_json

_RETRY = {"retry-after": "5", "retry-after-ms": "5000"}


class Door:
    """Leads to an application once it is open. Before that the server lives, is not ready, and says when to come back."""

    def __init__(self) -> None:
        self._app: ASGIApp | None = None

    def open(self, app: ASGIApp) -> None:
        """Lets an application answer from now on."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._app is not None:
            await self._app(scope, receive, send)
        elif scope["path"] == "/health":
            await _send(send, 200, {"status": "loading"})
        elif scope["path"] == "/ready":
            await _send(send, 503, {"status": "not ready", "reason": "the model is loading"})
        else:
            raise ApiError(
                "the model is loading",
                next_step="Ask again when /ready says 200.",
                refusal=Refusal(status=503, code=LOADING, headers=_RETRY),
            )


async def _send(send: Send, status: int, value: object) -> None:
    body = to_json(value)
    headers = {"content-type": "application/json", "content-length": str(len(body)), **(_RETRY if status == 503 else {})}
    encoded = [(name.encode(), text.encode()) for name, text in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
