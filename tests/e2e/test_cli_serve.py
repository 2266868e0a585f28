"""`quire serve` as a process: what it prints, what it answers, and how it ends."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import httpx2
import pytest

from support.serve_process import serving, url_in

get, post = (partial(ask, timeout=60) for ask in (httpx2.get, httpx2.post))
KEY = "a-key-of-this-test"


def test_start_prints_what_a_client_needs_and_its_curl_line_works() -> None:
    with serving() as (process, lines):
        url = url_in(lines)
        assert f"Quire 0.1.0 serves bundled at {url}" in lines
        assert f"base URL for OpenAI clients: {url}/v1" in lines
        assert f"base URL for Anthropic clients: {url}" in lines
        assert any("a request may use 2,048" in line for line in lines)
        body = re.search(r"-d '(.*)'$", lines[-1])
        assert body is not None
        answer = post(f"{url}/v1/chat/completions", content=body[1], headers={"content-type": "application/json"})
        assert "Paris" in answer.json()["choices"][0]["message"]["content"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_a_client_connects_once_it_has_read_the_address_and_the_end_is_silent() -> None:
    with serving() as (process, lines):
        socket.create_connection(("127.0.0.1", int(url_in(lines).rpartition(":")[2]))).close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert process.stdout is not None
        assert process.stdout.read() == ""


@pytest.mark.parametrize("is_file", [False, True])
def test_keys_come_from_a_file_or_the_environment(tmp_path: Path, is_file: bool) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{KEY}\n")
    arguments = ("--api-key-file", str(file)) if is_file else ()
    with serving(*arguments, environment={"QUIRE_API_KEY": "another-key-of-this-test" if is_file else KEY}) as (_, lines):
        url = url_in(lines)
        assert "API keys: 1" in lines
        assert get(f"{url}/v1/models").status_code == 401
        assert get(f"{url}/v1/models", headers={"authorization": f"Bearer {KEY}"}).status_code == 200


def test_second_signal_cuts_what_the_first_let_go_on() -> None:
    fields = {"prompt": "one, two,", "max_tokens": 2000, "ignore_eos": True, "stream": True, "n": 64, "temperature": 1}
    with serving("--shutdown-timeout", "50") as (process, lines):
        url = url_in(lines)
        with httpx2.stream("POST", f"{url}/v1/completions", json=fields, timeout=60) as answer:
            chunks = answer.iter_raw()
            next(chunks)
            process.send_signal(signal.SIGTERM)
            while get(f"{url}/ready").status_code == 200:
                pass
            next(chunks)
            process.send_signal(signal.SIGINT)
            rest = b"".join(chunks)
        assert process.wait(60) == 0
    assert b'"code":"shutting_down"' in rest
    assert rest.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "::"], "needs an API key"),
        (["--api-key-file", "no-such-file"], "cannot be read"),
        (["--port", "70000"], "70000"),
        (["--served-model-name", ""], "name is empty"),
        (["--host", "no.such.host.invalid", "--api-key-file", "KEYS"], "cannot listen"),
    ],
)
def test_wrong_options_are_refused_before_the_model_is_loaded(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "KEYS").write_text(KEY)
    command = [sys.executable, "-m", "quire.cli", "serve", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_no_store_keeps_no_response() -> None:
    with serving("--no-store") as (_, lines):
        answer = post(f"{url_in(lines)}/v1/responses", json={"input": "Hi", "max_output_tokens": 1, "store": True}).json()
        assert answer["store"] is False
        assert get(f"{url_in(lines)}/v1/responses/{answer['id']}").status_code == 404
