"""What the Responses API tells of responses that are kept: `/v1/responses/{id}`, `/cancel` and `/input_items`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from quire.server.errors import ApiError, Refusal, not_served, refuse
from quire.server.gate import TENANT
from quire.server.render import to_json
from quire.server.responses.store import Item, StoredResponse
from quire.server.service import Service

_ORDERS = ("asc", "desc")
_DEFAULT_PAGE, _MAX_PAGE = 20, 100


class StoredEndpoints:
    """The handlers of stored responses."""

    def __init__(self, service: Service) -> None:
        self._store = service.stored
        self._workers = service.workers

    def routes(self) -> list[Route]:
        """Returns the routes."""
        path = "/v1/responses/{response_id}"
        return [
            Route("/v1/responses/compact", self._compact, methods=["POST"]),
            Route(path, self._response, methods=["GET"]),
            Route(path, self._delete, methods=["DELETE"]),
            Route(f"{path}/cancel", self._cancel, methods=["POST"]),
            Route(f"{path}/input_items", self._input_items, methods=["GET"]),
        ]

    async def _response(self, request: Request) -> Response:
        if request.query_params.get("stream", "false") != "false":
            raise refuse("a stored response is not streamed", "Leave stream out.", param="stream")
        return _json(self._found(request).body)

    async def _delete(self, request: Request) -> Response:
        response_id = request.path_params["response_id"]
        if self._store is None or not self._store.delete(request.scope[TENANT], response_id):
            raise self._not_found()
        return _json(to_json({"id": response_id, "object": "response", "deleted": True}))

    async def _cancel(self, request: Request) -> Response:
        self._found(request)
        raise refuse(
            "this response is done, and only one in the background could be cancelled",
            "Close the connection to end a response that runs.",
            param="response_id",
            code="not_cancellable",
        )

    async def _input_items(self, request: Request) -> Response:
        turn, query = self._found(request).turn, request.query_params
        page = await self._workers.run(turn.num_conversation_bytes(), lambda: to_json(_page_of(turn.input_items(), query)))
        return _json(page)

    async def _compact(self, request: Request) -> Response:
        raise not_served(request.scope["path"])

    def _found(self, request: Request) -> StoredResponse:
        """Returns the response of a path; raises ApiError (404) for one that is not kept for its owner."""
        stored = None if self._store is None else self._store.get(request.scope[TENANT], request.path_params["response_id"])
        if stored is None:
            raise self._not_found()
        return stored

    def _not_found(self) -> ApiError:
        makes_some = "POST /v1/responses makes one, and keeps it unless store is false."
        return ApiError(
            "there is no response of this id here, or not any more",
            next_step=makes_some if self._store is not None else "Start the server without --no-store.",
            refusal=Refusal(status=404, param="response_id", code="response_not_found"),
        )


def _page_of(items: list[Item], query: Mapping[str, str]) -> dict[str, Any]:
    """Returns the items of one page: the last ones first unless `order` is asc, behind the item called `after`."""
    order, after = query.get("order", "desc"), query.get("after")
    if order not in _ORDERS:
        raise refuse("order is asc or desc", "Use one of these.", param="order")
    length = _length_of(query.get("limit"))
    ordered = items if order == "asc" else items[::-1]
    start = 0 if after is None else _place_behind(after, ordered)
    page = ordered[start : start + length]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else "",
        "last_id": page[-1]["id"] if page else "",
        "has_more": start + length < len(ordered),
    }


def _length_of(limit: str | None) -> int:
    if limit is None:
        return _DEFAULT_PAGE
    if not limit.isascii() or not limit.isdigit() or len(limit) > 3 or not 1 <= int(limit) <= _MAX_PAGE:
        raise refuse(f"limit must be from 1 to {_MAX_PAGE}", "Pass limit within that range.", param="limit")
    return int(limit)


def _place_behind(item_id: str, items: list[Item]) -> int:
    for place, item in enumerate(items, start=1):
        if item["id"] == item_id:
            return place
    raise refuse("after names no item of this response", "Pass the id of an item of the page before.", param="after")


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
