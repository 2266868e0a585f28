"""What is typed becomes turns and commands."""

from __future__ import annotations

import io
import stat
import sys
from pathlib import Path

import pytest

from quire.cli import chat_input
from quire.cli.chat_input import Command, PipedLines, ReadLine, Turn, history_path, line_editing, read_turn
from quire.errors import RequestError


def _lines(*lines: str) -> ReadLine:
    rest = list(lines)

    def read_line(_prompt: str) -> str:
        if not rest:
            raise EOFError
        return rest.pop(0)

    return read_line


def _all(*lines: str) -> list[Turn | Command]:
    read_line, found = _lines(*lines), []
    while (typed := read_turn(read_line)) is not None:
        found.append(typed)
    return found


def test_each_line_is_a_turn_and_empty_ones_are_skipped() -> None:
    assert _all("one", "", "   ", "two") == [Turn("one"), Turn("two")]


def test_trailing_backslash_continues_the_turn() -> None:
    assert _all("one\\", "two\\", "three", "four") == [Turn("one\ntwo\nthree"), Turn("four")]


def test_triple_quotes_enclose_a_block() -> None:
    assert _all('"""', "/not a command", "", "end\\", '"""', "next") == [Turn("/not a command\n\nend\\"), Turn("next")]


def test_block_may_open_and_close_on_lines_with_text() -> None:
    assert _all('"""one', 'two"""', '"""alone"""') == [Turn("one\ntwo"), Turn("alone")]


def test_two_quotes_in_a_row_close_an_empty_block() -> None:
    assert _all('""""""', "next") == [Turn("next")]


@pytest.mark.parametrize("lines", [('"""', "a", "b"), ("a\\", "b\\"), ("a\\", "b")])
def test_end_of_input_sends_what_there_is(lines: tuple[str, ...]) -> None:
    (turn,) = _all(*lines)
    assert isinstance(turn, Turn)
    assert turn.text.strip() == "a\nb"


def test_slash_starts_a_command() -> None:
    assert _all("/save  my file.json ", "/undo", "/") == [Command("save", "my file.json"), Command("undo", ""), Command("", "")]


def test_slash_inside_a_line_is_text() -> None:
    assert _all("a/b", " /c") == [Turn("a/b"), Turn(" /c")]


def test_prompts_show_whether_the_turn_goes_on() -> None:
    prompts: list[str] = []
    rest = iter(("a\\", "b"))

    def read_line(prompt: str) -> str:
        prompts.append(prompt)
        return next(rest)

    read_turn(read_line)
    assert prompts == [">>> ", "... "]


def test_piped_lines_keep_everything_but_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(" a \r\n\né".encode()), encoding="ascii"))
    lines = PipedLines()
    assert [lines.read(""), lines.read(""), lines.read("")] == [" a ", "", "é"]
    with pytest.raises(EOFError):
        lines.read("")


def test_piped_bytes_that_are_no_text_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xc3\xa9\nab\xff\n"), encoding="utf-8"))
    lines = PipedLines()
    lines.read("")
    with pytest.raises(RequestError, match=r"UTF-8.*byte 0xff at offset 8"):
        lines.read("")


def test_history_lies_in_the_state_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert history_path() == tmp_path / "quire" / "history"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert history_path() == Path.home() / ".local" / "state" / "quire" / "history"


def test_history_is_kept_capped_and_private(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    readline = pytest.importorskip("readline")
    monkeypatch.setattr(chat_input, "MAX_HISTORY_LINES", 3)
    history = tmp_path / "quire" / "history"
    for text in ("one", "two"):
        with line_editing(history):
            readline.add_history(text)
            readline.add_history(f"{text} again")
    assert history.read_text().split("\n")[-4:] == ["one again", "two", "two again", ""]
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


def test_history_that_cannot_be_kept_is_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("readline")
    (tmp_path / "quire").write_text("a file where the directory should be")
    with line_editing(tmp_path / "quire" / "history"):
        pass
    assert "is not kept" in capsys.readouterr().err


def test_no_history_writes_no_file(tmp_path: Path) -> None:
    with line_editing(None):
        pass
    assert list(tmp_path.iterdir()) == []
