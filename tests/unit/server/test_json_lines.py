"""JSON of answers, whose texts stay on one line whatever a client takes for the end of a line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.server.render import json_text, to_json

TEXTS = st.text(st.sampled_from('a\n\r\x85\u2028\u2029\u00e9\U0001f600"\\'), max_size=20)


@given(TEXTS)
def test_text_is_one_line_and_reads_as_it_was(text: str) -> None:
    for written in (json_text(text).decode(), to_json({"a": text}).decode()):
        assert len(written.splitlines()) == 1
    assert json.loads(json_text(text)) == text
    assert json.loads(to_json({"a": text})) == {"a": text}


@pytest.mark.parametrize("text", ["", "plain", "na\u00efve"])
def test_other_text_stands_as_it_is(text: str) -> None:
    assert json_text(text).decode() == f'"{text}"'
