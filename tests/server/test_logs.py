"""What `quire serve` logs of requests: all that an operator needs, and nothing that a client sent."""

from __future__ import annotations

import json
import signal
import socket
from functools import partial

import httpx2
import pytest

from support.serve_process import serving, url_in

post = partial(httpx2.post, timeout=60)
KEY, PROMPT, NAME = "a-key-that-is-secret", "a prompt that is secret", "a name that is secret"
SENT = (KEY, PROMPT, NAME, "secret")


def _ask_everything(url: str) -> str:
    """Sends requests that hold secrets wherever a request can hold any; returns the id of the first answer."""
    auth = {"authorization": f"Bearer {KEY}"}
    fields = {"prompt": PROMPT, "max_tokens": 3, "ignore_eos": True, "model": NAME, "user": NAME}
    first = post(f"{url}/v1/completions", json=fields, headers=auth | {"x-request-id": NAME})
    assert first.status_code == 200
    post(f"{url}/v1/completions", json=fields | {"stream": True}, headers=auth)
    post(f"{url}/v1/completions", json=fields | {"n": NAME}, headers=auth)
    post(f"{url}/v1/chat/completions", json={"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 1}, headers=auth)
    post(f"{url}/v1/completions", content=f"{PROMPT}".encode(), headers=auth | {"content-type": "application/json"})
    post(f"{url}/{NAME}%0d%0aforged?{NAME}", headers=auth)
    post(f"{url}/v1/completions", json=fields, headers={"authorization": f"Bearer {KEY}x"})
    post(f"{url}/v1/completions", json=fields, headers=auth | {"host": "secret.example"})
    port = int(url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(f"SECRET-{KEY} {PROMPT}\r\n\r\n".encode())
        connection.recv(100)
    return str(first.headers["x-request-id"])


@pytest.mark.parametrize("form", ["text", "json"])
def test_requests_leave_lines_without_what_was_sent(form: str) -> None:
    with serving("--log-format", form, "--log-level", "debug", environment={"QUIRE_API_KEY": KEY}) as (process, lines):
        request_id = _ask_everything(url_in(lines))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert process.stdout is not None
        log = process.stdout.read()
    assert not [word for word in SENT if word.lower() in log.lower()]
    (line,) = [line for line in log.splitlines() if request_id in line]
    for fact in ("POST", "/v1/completions", "200", "prompt_tokens", "cached_tokens", "generated_tokens", "queue_s", "ttft_s"):
        assert fact in line
    assert len([line for line in log.splitlines() if "request_id" in line]) == 8
    if form == "json":
        entry = json.loads(line)
        assert (entry["generated_tokens"], entry["finish_reason"], entry["status"]) == (3, "length", 200)
        assert all(json.loads(each) for each in log.splitlines())


def test_level_silences_requests() -> None:
    with serving("--log-level", "error") as (process, lines):
        assert post(f"{url_in(lines)}/v1/completions", json={"prompt": "a", "max_tokens": 1}).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert process.stdout is not None
        assert process.stdout.read() == ""
