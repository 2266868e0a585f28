"""`--otel`: one span per request, in the trace that the client began."""

from __future__ import annotations

import subprocess
import sys

from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from quire.request import RequestMetrics
from quire.server.metrics_answers import AnswerFacts
from quire.server.request_record import RequestRecord
from quire.server.telemetry import Tracing

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ANSWER = AnswerFacts(
    num_prompt_tokens=7,
    num_cached_tokens=4,
    num_generated_tokens=2,
    reasons=("stop", "length", "stop"),
    metrics=(RequestMetrics(queue_s=0.25, ttft_s=0.5, e2e_s=1.0, num_preemptions=0, num_steps=2),),
    explanations=(),
)


def record_of(traceparent: bytes | None, status: int = 200) -> RequestRecord:
    return RequestRecord(
        method="POST",
        route="/v1/completions",
        status=status,
        request_id="req_1",
        duration_s=1.5,
        ended_s=100.0,
        code=None,
        answer=ANSWER,
        traceparent=traceparent,
    )


def spans_of(*records: RequestRecord) -> tuple[object, ...]:
    exporter = InMemorySpanExporter()
    tracing = Tracing(SimpleSpanProcessor(exporter))
    for record in records:
        tracing.note(record)
    tracing.close()
    return exporter.get_finished_spans()


def test_span_tells_what_the_log_tells_and_continues_the_trace() -> None:
    (span,) = spans_of(record_of(f"00-{TRACE}-{PARENT}-01".encode()))
    assert (span.name, span.start_time, span.end_time) == ("POST /v1/completions", 98_500_000_000, 100_000_000_000)
    assert format(span.context.trace_id, "032x") == TRACE
    assert format(span.parent.span_id, "016x") == PARENT
    attributes = dict(span.attributes)
    assert attributes["quire.finish_reason"] == "stop,length"
    assert (attributes["quire.prompt_tokens"], attributes["quire.cached_tokens"], attributes["quire.ttft_s"]) == (7, 4, 0.5)
    assert span.status.is_unset


def test_header_that_is_no_trace_begins_a_new_one() -> None:
    spans = spans_of(
        record_of(None), record_of(b"00-\xff\r\n-01"), record_of(f"00-{'0' * 32}-{PARENT}-01".encode()), record_of(b"")
    )
    assert [span.parent for span in spans] == [None] * 4
    assert len({span.context.trace_id for span in spans}) == 4


def test_server_error_is_an_error_of_the_span() -> None:
    (span,) = spans_of(record_of(None, status=503))
    assert not span.status.is_ok


def test_missing_extra_is_named() -> None:
    program = "import sys; sys.modules['opentelemetry'] = None; from quire.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "serve", "--otel"], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'quire[otel]'" in done.stderr
