"""`--otel`: a span for each request, sent by the libraries of OpenTelemetry, which an extra installs.

A request that came with a `traceparent` continues that trace. A span tells what the log tells and never a text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quire.errors import ConfigError
from quire.server.request_record import RequestRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

_NANOSECONDS = 1_000_000_000
_FIRST_SERVER_ERROR = 500


def start_tracing() -> Tracing:
    """Returns what sends spans to the address in OTEL_EXPORTER_OTLP_ENDPOINT; raises ConfigError without the extra."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigError(
            "--otel needs the libraries of OpenTelemetry, which cannot be imported here",
            given=error.name,
            next_step="Run pip install 'quire[otel]', or leave --otel out.",
        ) from error
    return Tracing(BatchSpanProcessor(OTLPSpanExporter()))


class Tracing:
    """Makes the spans of requests that are over, and gives them to a processor of OpenTelemetry's, which has its own thread."""

    def __init__(self, processor: SpanProcessor) -> None:
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider

        self._provider: TracerProvider = TracerProvider(resource=Resource.create({SERVICE_NAME: "quire"}), shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("quire")

    def note(self, record: RequestRecord) -> None:
        """Makes the span of one request."""
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {} if record.traceparent is None else {"traceparent": record.traceparent.decode("latin-1")}
        ended_ns = int(record.ended_s * _NANOSECONDS)
        span = self._tracer.start_span(
            f"{record.method} {record.route}",
            context=TraceContextTextMapPropagator().extract(carrier),
            kind=SpanKind.SERVER,
            attributes={f"quire.{name}": value for name, value in record.fields().items()},
            start_time=ended_ns - int(record.duration_s * _NANOSECONDS),
        )
        if record.status >= _FIRST_SERVER_ERROR:
            span.set_status(Status(StatusCode.ERROR))
        span.end(end_time=ended_ns)

    def close(self) -> None:
        """Sends what waits, and ends the thread that sends."""
        self._provider.shutdown()
