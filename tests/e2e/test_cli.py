"""`quire run` as a process: a checkpoint on disk, standard output, signals and pipes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from click.testing import CliRunner

from quire import LLM, RequestOutput, SamplingParams
from quire.cli.main import cli
from quire.engine.prompts import Prompt
from quire.models import bundled

QUIRE = (sys.executable, "-m", "quire.cli")
GREEDY = ("--max-tokens", "24", "--threads", "1")


def _quire(*arguments: object, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*QUIRE, *map(str, arguments)], capture_output=True, timeout=60, input=stdin, check=False)


def _start(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*QUIRE, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_only_the_answer_is_on_standard_output(tiny_model: Path) -> None:
    plain = _quire("run", "-m", tiny_model, "hello", *GREEDY, "--stats")
    described = json.loads(_quire("run", "-m", tiny_model, "hello", *GREEDY, "--json").stdout)
    assert plain.returncode == 0
    assert plain.stdout.decode() == described["text"].rstrip("\n") + "\n"
    assert plain.stderr.decode().startswith(f"prompt {described['num_prompt_tokens']} tokens (0 reused) | answer ")
    assert plain.stderr.splitlines()[1].strip() == b"KV memory"
    assert b"Held by requests" in plain.stderr
    assert described["num_output_tokens"] == len(described["token_ids"])
    assert described["ttft_s"] > 0


@pytest.mark.skipif(not Path(bundled.__path__[0], "config.json").is_file(), reason="this installation carries no bundled model")
def test_bundled_model_answers_by_default() -> None:
    result = _quire("run", "What is the capital of France?")
    assert result.returncode == 0
    assert b"Paris" in result.stdout
    talk = _quire("chat", stdin=b"What is the capital of France?\nWhat is the capital of Italy?\n")
    assert talk.returncode == 0
    assert [b"Paris" in talk.stdout, b"Rome" in talk.stdout] == [True, True]


def test_prompt_is_read_from_a_pipe_with_or_without_a_dash(tiny_model: Path) -> None:
    given = _quire("run", "-m", tiny_model, "hello", *GREEDY).stdout
    assert _quire("run", "-m", tiny_model, *GREEDY, stdin=b"hello\n").stdout == given
    assert _quire("run", "-m", tiny_model, "-", *GREEDY, stdin=b"hello").stdout == given


def test_raw_leaves_the_chat_template_out(tiny_model: Path) -> None:
    raw = json.loads(_quire("run", "-m", tiny_model, "hello", "--raw", "--json", *GREEDY).stdout)
    assert raw["num_prompt_tokens"] == len("hello")


def test_recommendation_that_is_not_applied_is_told_on_standard_error(tiny_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "generation_config.json").write_text('{"num_beams": 4, "no_repeat_ngram_size": 3}')
    result = _quire("run", "-m", model, "hello", *GREEDY)
    assert result.returncode == 0
    assert result.stderr == (
        b"note: generation_config.json asks for no_repeat_ngram_size, num_beams, which Quire does not apply\n"
    )


@pytest.mark.parametrize("arguments", [("run", "--system", "be brief", "hello"), ("chat",)])
def test_model_without_a_chat_template_is_sent_to_raw(tiny_model: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "chat_template"}))
    result = _quire(*arguments, "-m", model, stdin=b"hello\n")
    assert result.returncode == 1
    assert result.stderr.decode() == (
        "error: this model has no chat template. Use `quire run --raw` and write the prompt's format yourself.\n"
    )


def test_seed_repeats_an_answer(tiny_model: Path) -> None:
    first = json.loads(_quire("run", "-m", tiny_model, "hi", "--temperature", "1.2", "--json", *GREEDY).stdout)
    again = json.loads(
        _quire("run", "-m", tiny_model, "hi", "--temperature", "1.2", "--seed", first["seed"], "--json", *GREEDY).stdout
    )
    assert again["token_ids"] == first["token_ids"]


def test_interrupt_keeps_the_partial_answer_and_ends_the_line(endless_model: Path) -> None:
    with _start("run", "-m", endless_model, "hello", "--stats", "--threads", "1") as process:
        assert process.stdout is not None
        begun = process.stdout.read(40)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert len(begun) == 40
    assert rest.endswith(b"\n")
    assert b"Traceback" not in errors
    assert errors.startswith(b"prompt ")


def test_interrupted_json_is_still_one_object(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = LLM.stream

    def interrupted(llm: LLM, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[RequestOutput]:
        yield from islice(whole(llm, prompt, params), 5)
        raise KeyboardInterrupt

    monkeypatch.setattr(LLM, "stream", interrupted)
    result = CliRunner().invoke(cli, ["run", "-m", str(tiny_model), "hello", "--json", *GREEDY])
    found = json.loads(result.stdout)
    assert (result.exit_code, found["finish_reason"], len(found["token_ids"])) == (130, "abort", 5)


def test_closed_pipe_is_quiet(endless_model: Path) -> None:
    with _start("run", "-m", endless_model, "hello", "--threads", "1") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("-m", "no/such/model/here", "hi"), 2, "error: This is neither a model directory nor a Hugging Face id"),
        (("--top-p", "0.5", "hi"), 2, "takes the most likely token and ignores --top-p (given: --top-p 0.5). Add --temperature"),
        (("-n", "2", "hi"), 2, "ignores n (given: -n 2). Add --temperature"),
        (("--temperature", "0", "--top-p", "0.5", "hi"), 2, "error: --temperature 0 is greedy and ignores --top-p"),
        (("--max-context", "100000000", "hi"), 2, "error: The requested context does not fit"),
        (("",), 2, "The prompt is empty"),
        (("--system", "x", "--raw", "hi"), 2, "--system needs the chat template"),
        (("--kv-memory", "1KiB", "hi"), 2, "error: the KV memory does not hold one block"),
        (("x" * 2000,), 2, "error: "),
    ],
)
def test_errors_are_one_line_with_their_exit_code(tiny_model: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    result = _quire("run", "-m", tiny_model, *arguments)
    assert (result.returncode, result.stdout) == (code, b"")
    assert message in result.stderr.decode()
    assert b"Traceback" not in result.stderr
    assert result.stderr.startswith(b"Usage: ") or result.stderr.count(b"\n") == 1


def test_prompt_that_is_no_text_is_a_usage_error(tiny_model: Path) -> None:
    assert _quire("run", "-m", tiny_model, stdin=b"\xff\xfe").returncode == 2
    result = subprocess.run([*QUIRE, "run", "-m", str(tiny_model), b"\xff"], capture_output=True, timeout=60, check=False)
    assert (result.returncode, result.stdout) == (2, b"")


def test_full_context_is_told_on_standard_error(endless_model: Path) -> None:
    result = _quire("run", "-m", endless_model, "hello", "--max-context", "64", "--threads", "1")
    assert (result.returncode, len(result.stdout.decode()) > 20) == (0, True)
    assert b"the context is full" in result.stderr


def test_unprintable_output_encoding_is_no_failure(tiny_model: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [*QUIRE, "run", "-m", str(tiny_model), "hello", "--temperature", "2", "--seed", "3", "--max-tokens", "60"]
    result = subprocess.run(command, capture_output=True, timeout=60, env=environment, check=False)
    assert result.returncode == 0
    assert result.stdout.isascii()


def test_several_answers_are_numbered_and_differ(tiny_model: Path) -> None:
    drawn = ("--temperature", "1.3", "--seed", "5", "-n", "3", *GREEDY)
    shown = _quire("run", "-m", tiny_model, "hi", *drawn, "--stats")
    found = json.loads(_quire("run", "-m", tiny_model, "hi", *drawn, "--json").stdout)
    assert shown.returncode == 0
    texts = [answer["text"] for answer in found["answers"]]
    assert len(set(texts)) == 3
    blocks = "\n".join(f"[{number} of 3]\n{text.removesuffix(chr(10))}\n" for number, text in enumerate(texts, start=1))
    assert shown.stdout.decode() == blocks
    assert f"answer {found['num_output_tokens']} tokens" in shown.stderr.decode()
    assert found["num_output_tokens"] == sum(len(answer["token_ids"]) for answer in found["answers"])


def test_logprobs_are_a_table_below_the_answer_and_numbers_in_json(tiny_model: Path) -> None:
    options = ("--max-tokens", "3", "--threads", "1", "--logprobs", "2")
    found = json.loads(_quire("run", "-m", tiny_model, "hi", *options, "--json").stdout)
    plain = json.loads(_quire("run", "-m", tiny_model, "hi", *options[:4], "--json").stdout)
    shown = _quire("run", "-m", tiny_model, "hi", *options).stdout.decode()
    assert "logprobs" not in plain
    assert found["token_ids"] == plain["token_ids"]
    assert [entry["token_id"] for entry in found["logprobs"]] == found["token_ids"]
    for entry in found["logprobs"]:
        assert (entry["rank"], [other["rank"] for other in entry["top"]]) == (1, [1, 2])
        assert entry["logprob"] <= 0
        assert f"{entry['logprob']:.3f}" in shown
    assert shown.startswith(found["text"])


def test_repetition_penalty_changes_a_repeating_answer(tiny_model: Path) -> None:
    plain = _quire("run", "-m", tiny_model, "hello", *GREEDY).stdout
    punished = _quire("run", "-m", tiny_model, "hello", *GREEDY, "--repetition-penalty", "5").stdout
    assert punished != plain
