"""What is noted of every HTTP request when it is over: counts, a line in the log, and a span where traces are asked for."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.routing import Router
from starlette.types import Scope

from quire.server.logs import log_request
from quire.server.metrics import Metrics
from quire.server.metrics_http import GONE, RouteNames
from quire.server.metrics_values import OTHER
from quire.server.request_record import ANSWER, REFUSAL, REQUEST_ID, RequestRecord

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_PROBES = frozenset({"/health", "/ready", "/metrics"})
"""Routes that something asks every few seconds: their lines are only for debugging."""

Trace = Callable[[RequestRecord], None]


class Observer:
    """Notes requests of one server. Belongs to its event loop."""

    def __init__(self, metrics: Metrics | None = None, trace: Trace | None = None) -> None:
        self.metrics = metrics or Metrics()
        self._trace = trace
        self._routes = RouteNames(())

    def know_routes(self, router: Router) -> None:
        """Tells requests apart by these routes from now on."""
        self._routes = RouteNames(router.routes)
        self.metrics.http.know_routes(self._routes.names)

    def note(self, scope: Scope, status: int | None, began_s: float) -> None:
        """Notes a request that is over; `status` None: the client left first. `began_s` is of `time.perf_counter`."""
        refusal = scope.get(REFUSAL)
        record = RequestRecord(
            method=scope["method"] if scope["method"] in _METHODS else OTHER,
            route=self._routes.name_of(scope["path"]),
            status=GONE if status is None else status,
            request_id=scope[REQUEST_ID],
            duration_s=time.perf_counter() - began_s,
            ended_s=time.time(),
            code=None if refusal is None else refusal.refusal.code,
            answer=scope.get(ANSWER),
            traceparent=_traceparent_of(scope) if self._trace is not None else None,
        )
        self.metrics.http.note_response(record.route, record.status)
        if refusal is not None:
            self.metrics.http.note_rejection(refusal)
        log_request(record, is_probe=record.route in _PROBES)
        if self._trace is not None:
            self._trace(record)


def _traceparent_of(scope: Scope) -> bytes | None:
    return next((value for name, value in scope["headers"] if name == b"traceparent"), None)
