"""A text that cannot fit is refused by its length alone, on every path that would compute it."""

from __future__ import annotations

from typing import Any, NoReturn

import httpx2
import pytest

from quire.text.tokenizer import Tokenizer
from support.served import Served

LONG = "word " * 20_000


def chat_of(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 4}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", chat_of(LONG)),
        ("/v1/chat/completions", {"messages": [*chat_of("Hi")["messages"], {"role": "assistant", "content": LONG}]}),
        ("/v1/messages", chat_of(LONG)),
        ("/v1/responses", {"input": LONG}),
        ("/v1/completions", {"prompt": LONG}),
        ("/v1/completions", {"prompt": ["Hi", LONG]}),
        ("/v1/score", {"prompt": "Hi", "context": LONG}),
    ],
)
def test_text_that_cannot_fit_is_not_encoded(
    path: str, fields: dict[str, Any], http: httpx2.Client, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoding = Tokenizer.encoding

    def only_short(self: Tokenizer, text: str, **options: Any) -> Any:
        return encoding(self, text, **options) if len(text) < len(LONG) else _encoded()

    monkeypatch.setattr(Tokenizer, "encoding", only_short)
    answer = http.post(path, json=fields)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert "context_length_exceeded" in (error.get("code"), error.get("details", {}).get("error_code"))
    assert "prompt is too long: at least " in error["message"]
    assert f" tokens > {server.service.max_context - 1} maximum" in error["message"]


def _encoded() -> NoReturn:
    raise AssertionError("the text was encoded")


def test_text_is_counted_however_long_it_is(http: httpx2.Client, server: Served) -> None:
    num_tokens = len(server.service.engine.tokenizer.encode(LONG))
    assert num_tokens > server.service.max_context
    assert http.post("/tokenize", json={"prompt": LONG}).json()["count"] == num_tokens
    assert http.post("/v1/messages/count_tokens", json=chat_of(LONG)).json()["input_tokens"] > num_tokens
    assert http.post("/v1/responses/input_tokens", json={"input": LONG}).json()["input_tokens"] > num_tokens


def test_bound_refuses_no_text_that_fits(http: httpx2.Client, server: Served) -> None:
    tokenizer = server.service.engine.tokenizer
    widest = max((tokenizer.token_text(token_id) for token_id in range(tokenizer.vocab_size)), key=len)
    text = widest * (server.service.max_context - 1)
    bound = server.service.text_bound
    assert bound is not None
    bound.require(text)
    num_tokens = len(tokenizer.encode(text))
    answer = http.post("/v1/completions", json={"prompt": text, "max_tokens": 0})
    assert (answer.status_code == 200) is (num_tokens < server.service.max_context)
