"""JSON of answers: what it holds is read back, and no reader takes a character for the end of a line."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from quire.request import Logprob
from quire.server.logprobs import number_of
from quire.server.render import event, json_text, to_json


@given(st.text())
def test_text_is_one_line_for_every_reader_and_read_back(text: str) -> None:
    written = json_text(text).decode()
    assert json.loads(written) == text
    assert len(written.splitlines()) == 1
    assert json.loads(to_json({"a": [text]})) == {"a": [text]}


def test_event_is_one_line_of_data() -> None:
    assert event({"a": "\n"}) == b'data: {"a":"\\n"}\n\n'


def test_log_probability_of_what_cannot_come_is_a_number() -> None:
    assert number_of(Logprob(logprob=float("-inf"), rank=9)) == -9999.0
