"""Answers of the engine on their way out: whole, or as a stream of server-sent events.

headers, accepted | prompt, heartbeat ... | opening, deltas ... | closing   what can be refused was refused before the headers
                                                  failure                   an error after them is the end of the stream
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from quire.engine.step_events import PromptProgress, StepEvent
from quire.server.connection import DEPARTURE
from quire.server.errors import api_error, log_defect
from quire.server.generation import deltas_of
from quire.server.metrics_answers import facts_of
from quire.server.render import Call, StreamRenderer
from quire.server.request_record import ANSWER
from quire.server.runs import Run
from quire.server.service import Service

_EVENT_STREAM = {"content-type": "text/event-stream; charset=utf-8", "x-accel-buffering": "no"}
_JSON = {"content-type": "application/json"}
_BYTES_PER_ENTRY = 100
"""A guess of what a token takes in an answer, for the decision where to write it."""


class Answer:
    """An ASGI response that runs a call. It ends the call when the client disconnects, before the headers or after."""

    def __init__(self, call: Call, service: Service) -> None:
        self._call = call
        self._service = service

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        stream = self._call.stream
        run = Run(self._call.generation, self._service.engine, self._service.runs, is_streamed=stream is not None)
        with run, self._service.noted(self._call.note):
            try:
                with scope[DEPARTURE].calling(run.leave):
                    await (self._send_whole(run, send) if stream is None else self._send_stream(run, stream, send))
            finally:
                scope[ANSWER] = facts = facts_of(run, self._service.engine)
                self._service.metrics.answers.note(facts)

    async def _send_whole(self, run: Run, send: Send) -> None:
        while not run.is_over:
            await run.events()
            if run.is_gone:
                raise ClientDisconnect
        body = await self._service.workers.finish(_size_of(run), lambda: self._call.renderer.whole(run.outputs))
        await send_whole(send, body, {**_JSON, **self._call.headers})

    async def _send_stream(self, run: Run, stream: StreamRenderer, send: Send) -> None:
        await send_start(send, {**_EVENT_STREAM, **self._call.headers})
        chunks = Chunks(run, stream, self._service)
        if accepted := stream.accepted():
            await send({"type": "http.response.body", "body": accepted, "more_body": True})
        while not chunks.are_over:
            chunk = await chunks.next()
            if run.is_gone:
                return
            if chunk:
                run.last_sent_s = time.monotonic()
                await send({"type": "http.response.body", "body": chunk, "more_body": not chunks.are_over})


class Chunks:
    """The bytes of one stream, piece by piece. An error ends it with the API's own event."""

    def __init__(self, run: Run, stream: StreamRenderer, service: Service) -> None:
        self.are_over = False
        self._run, self._stream, self._service = run, stream, service
        self._has_begun = False

    async def next(self) -> bytes:
        """Waits and returns what there is to send, nothing where there is nothing yet."""
        try:
            events = await self._run.events()
            return self._events(events) or self._heartbeat()  # text may be withheld for as long as it may become a stop string
        except Exception as error:
            self.are_over = True
            log_defect(error)
            return self._stream.failure(api_error(error))

    def _events(self, events: Sequence[StepEvent]) -> bytes:
        parts = [self._stream.prompt(event) for event in events if isinstance(event, PromptProgress)]
        deltas = deltas_of(events, self._run.generation)
        if deltas and not self._has_begun:
            self._has_begun = True
            parts.append(self._stream.opening())
        parts += [self._stream.delta(delta) for delta in deltas]
        if self._run.is_over:
            self.are_over = True
            parts.append(self._stream.closing(self._run.outputs))
        return b"".join(parts)

    def _heartbeat(self) -> bytes:
        if time.monotonic() - self._run.last_sent_s < self._service.limits.heartbeat_s:
            return b""
        self._service.metrics.answers.num_heartbeats += 1
        return self._stream.heartbeat()


async def send_start(send: Send, headers: Mapping[str, str], status: int = 200) -> None:
    """Sends the head of an answer."""
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})


async def send_whole(send: Send, body: bytes, headers: Mapping[str, str], status: int = 200) -> None:
    """Sends an answer in one piece."""
    await send_start(send, {**headers, "content-length": str(len(body))}, status)
    await send({"type": "http.response.body", "body": body})


def _size_of(run: Run) -> int:
    """Returns about how many bytes an answer takes."""
    entries = 0
    for output in run.outputs:
        params = run.generation.groups[0].submission.sampling
        of_prompt = 0 if params.prompt_logprobs is None else len(output.prompt_token_ids) * (params.prompt_logprobs + 1)
        of_outputs = 0 if params.logprobs is None else params.logprobs + 1
        entries += of_prompt + of_outputs * sum(len(completion.token_ids) for completion in output.outputs)
    return entries * _BYTES_PER_ENTRY
