"""`--otel` in a process: spans arrive at a collector, with the names of the request and without its text."""

from __future__ import annotations

import gzip
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from support.serve_process import serving, url_in

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Any]]]:
    """A collector's address, and the spans that it has received."""
    spans: list[Any] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            request = ExportTraceServiceRequest.FromString(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)
            spans.extend(span for each in request.resource_spans for scope in each.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - the library's signature
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", spans
    server.shutdown()
    server.server_close()
    thread.join()


def test_spans_reach_the_collector_at_the_latest_when_the_server_ends(collector: tuple[str, list[Any]]) -> None:
    address, spans = collector
    with serving("--otel", environment={"OTEL_EXPORTER_OTLP_ENDPOINT": address}) as (process, lines):
        headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
        fields = {"prompt": "a text that stays here", "max_tokens": 2, "ignore_eos": True}
        answer = httpx2.post(f"{url_in(lines)}/v1/completions", json=fields, headers=headers, timeout=60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    (span,) = spans
    assert (span.name, span.trace_id.hex()) == ("POST /v1/completions", TRACE)
    attributes = {each.key: each.value for each in span.attributes}
    assert attributes["quire.request_id"].string_value == answer.headers["x-request-id"]
    assert attributes["quire.generated_tokens"].int_value == 2
    assert b"a text that stays here" not in span.SerializeToString()
