"""Standard streams that are full or closed: one line says so, and nothing looks like a crash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

QUIRE = f"{sys.executable} -m quire.cli"
FULL = Path("/dev/full")

needs_full_device = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


def _shell(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, timeout=60, check=False)


def _commands(model: Path) -> tuple[str, ...]:
    run = f"{QUIRE} run -m {model} hello --max-tokens 4 --threads 1"
    return (
        f"{QUIRE} --version",
        f"{QUIRE} info",
        f"{QUIRE} info --json",
        run,
        f"{run} --json",
        f"echo /help | {QUIRE} chat -m {model}",
    )


@needs_full_device
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_full_output_is_one_line_of_error(tiny_model: Path, monkeypatch: pytest.MonkeyPatch, unbuffered: str) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    for command in _commands(tiny_model):
        result = _shell(f"{command} > {FULL}")
        assert result.returncode == 1, command
        assert result.stderr == (
            "error: Standard output cannot be written (given: No space left on device). "
            "Free some space, or redirect it elsewhere.\n"
        ), command


def test_closed_output_is_one_line_of_error(tiny_model: Path) -> None:
    for command in _commands(tiny_model):
        result = _shell(f"{command} >&-")
        assert result.returncode == 1, command
        assert result.stderr == (
            "error: Standard output cannot be written (given: it is closed). Free some space, or redirect it elsewhere.\n"
        ), command


def test_closed_input_reads_as_empty(tiny_model: Path) -> None:
    result = _shell(f"{QUIRE} run -m {tiny_model} <&-")
    assert (result.returncode, "The prompt is empty" in result.stderr) == (2, True)


def test_closed_error_stream_costs_no_answer(tiny_model: Path) -> None:
    command = f"{QUIRE} run -m {tiny_model} hello --max-tokens 4 --threads 1 --stats"
    told, silent = _shell(command), _shell(f"{command} 2>&-")
    assert (silent.returncode, silent.stdout, silent.stderr) == (0, told.stdout, "")


@needs_full_device
def test_error_that_nobody_can_read_keeps_its_exit_code(tiny_model: Path) -> None:
    assert _shell(f"{QUIRE} info > {FULL} 2> {FULL}").returncode == 1
    assert _shell(f"{QUIRE} run -m {tiny_model} hello --top-p 0.5 2> {FULL}").returncode == 2


@needs_full_device
@pytest.mark.parametrize("arguments", ["run hi --bad", "--bad", "nonsense", "run hi -n x", "bench nonsense", "train"])
def test_misuse_that_nobody_can_read_keeps_its_exit_code(arguments: str) -> None:
    assert _shell(f"{QUIRE} {arguments} 2>{FULL}").returncode == 2


def test_file_that_the_system_refuses_is_named_in_one_line(tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer.json"
    failing = f"from quire.cli import main; main.cli = lambda **_: open({str(tokenizer)!r}); main.main()"
    result = _shell(f'{sys.executable} -c "{failing}"')
    assert (result.returncode, result.stderr) == (
        1,
        f"error: The operating system refused (given: {tokenizer}: No such file or directory). "
        "Check the file and its permissions.\n",
    )
