"""Answers of `/v1/responses`. Every event has a name, and numbers count them from 0.

response.created, response.in_progress             at once; the second again after each silence, since timers ignore comments
response.output_item.added, .content_part.added    with the first token
response.output_text.delta                         ...
response.output_text.done, .content_part.done, .output_item.done
response.completed | .incomplete | .failed         the whole response; nothing follows
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from quire.engine.step_events import PromptProgress
from quire.request import RequestOutput
from quire.server.diagnostics import Comparison, openai_diagnostics
from quire.server.errors import ApiError
from quire.server.generation import Delta, Generation, usage_of, whole_delta
from quire.server.render import AnswerSource, json_text, progress_fields, to_json
from quire.server.responses.message_item import MessageItem
from quire.server.responses.response_object import COMPLETED, ResponseFacts, ResponseObject, status_of
from quire.server.responses.store import RESPONSE_PREFIX, Place

_OF_PART = b',"output_index":0,"content_index":0'


class ResponseRenderer:
    """Writes one answer of the Responses API, and keeps it at its `place` when it is done. None: it is not kept.

    With a `comparison`, the response tells at its end why the cache held no more.
    """

    def __init__(
        self,
        facts: ResponseFacts,
        generation: Generation,
        source: AnswerSource,
        place: Place | None,
        comparison: Comparison | None,
    ) -> None:
        self._generation, self._source, self._place, self._comparison = generation, source, place, comparison
        self._response = ResponseObject(facts)
        item_id = facts.response_id.replace(RESPONSE_PREFIX, "msg_")
        self._message = MessageItem(item_id, facts.request.num_top, source.tokenizer)
        self._item_id = b'"item_id":"' + item_id.encode() + b'"'
        self._num_events = 0
        self._accepted_s = 0.0

    # -- as a stream -----------------------------------------------------------------

    def accepted(self) -> bytes:
        """Returns the response as it stands, twice: as it is created, and in progress."""
        self._accepted_s = time.monotonic()
        return self._lifecycle(b"created", self._response.running()) + self.heartbeat()

    def heartbeat(self) -> bytes:
        """Returns a named event, which resets the timer of every client."""
        return self._lifecycle(b"in_progress", self._response.running())

    def prompt(self, progress: PromptProgress) -> bytes:
        """Returns how far the prompt is, in an event that every client knows."""
        told = to_json(progress_fields(progress, self._accepted_s))[1:-1]
        return self._event(b"in_progress", told + b',"response":' + self._response.running())

    def opening(self) -> bytes:
        """Returns the beginning of the message, unless the prompt alone was wanted."""
        if self._generation.drops_output:
            return b""
        return self._item(b"added", self._message.begun()) + self._part(b"added")

    def delta(self, delta: Delta) -> bytes:
        """Returns what a delta adds to the text."""
        if self._generation.drops_output:
            return b""
        entries = self._message.take(delta)
        if not delta.text and entries == b"[]":
            return b""
        fields = self._item_id + _OF_PART + b',"delta":' + json_text(delta.text) + b',"logprobs":' + entries
        return self._event(b"output_text.delta", fields)

    def closing(self, outputs: Sequence[RequestOutput]) -> bytes:
        """Returns the end of the message, and the whole response."""
        status = self._status(outputs)
        message = b"" if self._generation.drops_output else self._message_end(status)
        return message + self._lifecycle(status.encode(), self._ended(status, outputs))

    def failure(self, error: ApiError) -> bytes:
        """Returns the end of a stream by an error."""
        return self._lifecycle(b"failed", self._response.failed(error))

    # -- whole -----------------------------------------------------------------------

    def whole(self, outputs: Sequence[RequestOutput]) -> bytes:
        """Returns the answer as one object."""
        self._message.take(whole_delta(0, outputs[0].outputs[0], self._generation))
        return self._ended(self._status(outputs), outputs)

    # -- inside ----------------------------------------------------------------------

    def _status(self, outputs: Sequence[RequestOutput]) -> str:
        return COMPLETED if self._generation.drops_output else status_of(outputs[0].outputs[0].finish_reason)

    def _ended(self, status: str, outputs: Sequence[RequestOutput]) -> bytes:
        """Returns the response at its end, which is kept from now on if it is to be kept."""
        output = b"" if self._generation.drops_output else self._message.ended(status)
        usage = usage_of(outputs, self._generation, self._source.block_size)
        compared = self._comparison
        diagnostics = None if compared is None else openai_diagnostics(compared.diagnosis(usage.num_cached))
        body = self._response.ended(status, output, usage, diagnostics)
        if self._place is not None:
            self._place.keep(self._response.response_id, body, b"[" + output + b"]")
        return body

    def _message_end(self, status: str) -> bytes:
        message = self._message
        text = self._item_id + _OF_PART + b',"logprobs":' + message.logprobs + b',"text":' + message.text
        return self._event(b"output_text.done", text) + self._part(b"done") + self._item(b"done", message.ended(status))

    def _item(self, what: bytes, item: bytes) -> bytes:
        return self._event(b"output_item." + what, b'"output_index":0,"item":' + item)

    def _part(self, what: bytes) -> bytes:
        return self._event(b"content_part." + what, self._item_id + _OF_PART + b',"part":' + self._message.part())

    def _lifecycle(self, what: bytes, response: bytes) -> bytes:
        return self._event(what, b'"response":' + response)

    def _event(self, name: bytes, fields: bytes) -> bytes:
        """Returns the next event, with its name where clients of either kind look for it."""
        number = self._num_events
        self._num_events += 1
        head = b'event: response.%b\ndata: {"type":"response.%b","sequence_number":%d,' % (name, name, number)
        return head + fields + b"}\n\n"
