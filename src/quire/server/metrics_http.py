"""What the server answers, by route and by status: the labels are the server's own words, never a client's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from starlette.routing import BaseRoute, Route

from quire.server.errors import ApiError
from quire.server.metrics_values import FAST_S, OTHER, Spread, Tally

GONE = 499
"""Stands for the status of a request whose client left before there was one, as in the logs of other servers."""

_STATUSES = ("2xx", "3xx", "4xx", "5xx", "gone")
_BY_CODE: Mapping[str | None, str] = MappingProxyType({"context_length_exceeded": "context_length", "loading": "loading"})
_BY_STATUS: Mapping[int, str] = MappingProxyType(
    {
        400: "invalid",
        401: "unauthorized",
        403: "forbidden",
        404: "not_found",
        405: "method",
        408: "slow_head",
        413: "body_too_large",
        415: "media_type",
        429: "overloaded",
        431: "head_too_large",
        500: "failed",
        503: "shutting_down",
        504: "timeout",
    }
)


class RouteNames:
    """The names of a server's routes, such as `/v1/models/{name:path}`: what stands for a path wherever paths are counted."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        known = [route for route in routes if isinstance(route, Route)]
        self.names = tuple(dict.fromkeys(route.path for route in known))
        self._exact = {route.path for route in known if "{" not in route.path}
        self._patterns = [(route.path_regex, route.path) for route in known if "{" in route.path]

    def name_of(self, path: str) -> str:
        """Returns the name of the route that a path leads to; OTHER for one that leads nowhere."""
        if path in self._exact:
            return path
        return next((name for pattern, name in self._patterns if pattern.match(path)), OTHER)


class HttpMetrics:
    """Counts answers. Belongs to the event loop."""

    def __init__(self) -> None:
        self._responses = Tally(route=(OTHER,), status=_STATUSES)
        self._rejected = Tally(reason=(*_BY_STATUS.values(), *_BY_CODE.values(), OTHER))
        self._loop_lag = Spread(FAST_S)

    def know_routes(self, names: Sequence[str]) -> None:
        """Begins to count these routes each on its own."""
        self._responses = Tally(route=(*names, OTHER), status=_STATUSES)

    def note_response(self, route: str, status: int) -> None:
        """Counts an answer."""
        self._responses.add(route, "gone" if status == GONE else f"{status // 100}xx")

    def note_rejection(self, error: ApiError) -> None:
        """Counts a request that got an error instead of an answer."""
        refusal = error.refusal
        self._rejected.add(_BY_CODE.get(refusal.code) or _BY_STATUS.get(refusal.status, OTHER))

    def note_lag(self, seconds: float) -> None:
        """Counts how late the event loop was."""
        self._loop_lag.add(seconds)

    def families(self) -> Iterator[Any]:
        """Yields what was counted."""
        yield self._responses.family("quire_http_responses", "Answers, by route and class of status.")
        yield self._rejected.family("quire_rejected", "Requests that got an error instead of an answer, by reason.")
        yield self._loop_lag.family("quire_loop_lag_seconds", "How late the event loop woke, ten times a second.")
