"""`GET /metrics`: what was counted by the engine thread and by the event loop, as Prometheus reads it.

engine thread   a step -----------> EngineMetrics --+
event loop      a request is over -> AnswerMetrics -+-> families, only when a scrape asks
event loop      an answer is sent -> HttpMetrics ---+
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from quire.server.metrics_answers import AnswerMetrics
from quire.server.metrics_engine import EngineMetrics
from quire.server.metrics_http import HttpMetrics

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


class Metrics(Collector):
    """All metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.engine = EngineMetrics()
        self.answers = AnswerMetrics()
        self.http = HttpMetrics()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def collect(self) -> Iterator[Any]:
        """Yields every family."""
        for part in (self.answers, self.engine, self.http):
            yield from part.families()

    def page(self) -> bytes:
        """Returns the metrics as text."""
        return generate_latest(self._registry)
