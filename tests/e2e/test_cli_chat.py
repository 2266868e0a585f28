"""`quire chat` from a pipe: turns, commands, saved files, and what the cache has to say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from quire import LLM
from quire.cli import chat_session
from quire.cli.chat_session import ChatSession
from quire.cli.follow_stream import Answer
from quire.cli.main import cli
from quire.engine.prompts import Submission
from quire.errors import CapacityError

OPTIONS = ("--max-tokens", "16", "--threads", "1")
Chat = Callable[..., Result]


@pytest.fixture
def chat(tiny_model: Path) -> Chat:
    def invoke(*lines: str, options: tuple[str, ...] = ()) -> Result:
        arguments = ["chat", "-m", str(tiny_model), *OPTIONS, *options]
        return CliRunner().invoke(cli, arguments, input="".join(f"{line}\n" for line in lines))

    return invoke


def _saved(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_each_piped_line_is_answered(chat: Chat, tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    result = chat("hello", "and you", f"/save {path}")
    assert (result.exit_code, result.stderr) == (0, "")
    turns = _saved(path)["turns"]
    assert [turn["user"] for turn in turns] == ["hello", "and you"]
    assert result.stdout.startswith("".join(f"{turn['assistant']}\n" for turn in turns))


def test_chat_from_a_real_pipe(tiny_model: Path) -> None:
    command = [sys.executable, "-m", "quire.cli", "chat", "-m", str(tiny_model), *OPTIONS]
    result = subprocess.run(command, input=b"hello\n/stats", capture_output=True, timeout=60, check=False)
    assert (result.returncode, result.stderr) == (0, b"")
    assert re.search(rb"turns +1\b", result.stdout)


def test_earlier_turns_come_from_the_cache(chat: Chat) -> None:
    shown = chat("a rather long first turn that fills a block of the cache", "second", "/cache").stdout
    found = re.search(r"reused +(\d+) of (\d+) tokens", shown)
    assert found is not None
    assert 32 <= int(found[1]) < int(found[2])
    assert re.search(r"blocks +=+\+", shown)
    assert re.search(r"map +=", shown)


def test_cache_of_another_question_diverges_and_says_where(chat: Chat) -> None:
    shown = chat("x" * 70, "/reset", "x" * 35 + "y" * 40, "/cache").stdout
    assert "the cached tokens continue differently" in shown
    assert re.search(r"diverged +at token 37, in block 1", shown)  # "u ", then 35 of x


def test_cache_before_the_first_answer_has_nothing_to_explain(chat: Chat) -> None:
    assert "no answer to explain yet" in chat("/cache").stdout


def test_undo_and_the_same_turn_give_the_same_answer(chat: Chat, tmp_path: Path) -> None:
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    assert chat("one", "two", f"/save {before}", "/undo", "two", f"/save {after}").exit_code == 0
    assert _saved(before) == _saved(after)


def test_branches_share_their_prefix_and_nothing_else(chat: Chat, tmp_path: Path) -> None:
    left, right = tmp_path / "left.json", tmp_path / "right.json"
    shown = chat("root", "/fork side", "on the side", f"/save {right}", "/fork main", "on main", f"/save {left}", "/fork").stdout
    assert [turn["user"] for turn in _saved(left)["turns"]] == ["root", "on main"]
    assert [turn["user"] for turn in _saved(right)["turns"]] == ["root", "on the side"]
    assert _saved(left)["turns"][0] == _saved(right)["turns"][0]
    assert re.search(r"main \(current\) +2 ", shown)


def test_saved_chat_goes_on_with_the_very_same_tokens(chat: Chat, tmp_path: Path) -> None:
    saved, whole, resumed = (tmp_path / f"{name}.json" for name in ("saved", "whole", "resumed"))
    chat("one", "two", f"/save {saved}", "three", f"/save {whole}", options=("--system", "be kind"))
    assert chat(f"/load {saved}", "three", f"/save {resumed}").exit_code == 0
    assert _saved(resumed) == _saved(whole)
    assert _saved(resumed)["system"] == "be kind"


def test_system_message_starts_over(chat: Chat, tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    result = chat("one", "/system be brief", "/system", "two", f"/save {path}", "/reset", "/stats")
    assert "be brief" in result.stdout
    assert (_saved(path)["system"], len(_saved(path)["turns"])) == ("be brief", 1)
    assert re.search(r"turns +0\b", result.stdout)


def test_block_of_lines_is_one_turn(chat: Chat, tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    chat('"""', "/undo", "is text here", '"""', f"/save {path}")
    assert [turn["user"] for turn in _saved(path)["turns"]] == ["/undo\nis text here"]


def test_help_lists_every_command(chat: Chat) -> None:
    shown = chat("/help").stdout
    assert all(
        f"/{name}" in shown
        for name in [
            "stats",
            "cache",
            "undo",
            "retry",
            "fork",
            "save",
            "load",
            "system",
            "reset",
            "help",
            "exit",
            "quit",
            "clear",
        ]
    )


@pytest.mark.parametrize("command", ["/exit", "/quit", "/bye", "/Exit"])
def test_chat_is_left_by_what_other_chats_call_it(chat: Chat, command: str) -> None:
    result = chat(command, "never answered")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_clear_starts_over(chat: Chat) -> None:
    assert re.search(r"turns +0\b", chat("one", "/clear", "/stats").stdout)


def test_retry_answers_the_last_turn_again(chat: Chat, tmp_path: Path) -> None:
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    drawing = ("--temperature", "1.5")
    result = chat("one", "two", f"/save {before}", "/retry", f"/save {after}", options=drawing)
    assert result.exit_code == 0, result.stderr
    old, new = _saved(before)["turns"], _saved(after)["turns"]
    assert [turn["user"] for turn in new] == ["one", "two"]
    assert new[0] == old[0]
    assert new[1] != old[1]


def test_retry_that_can_only_repeat_itself_says_so(chat: Chat) -> None:
    assert "The same answer" in chat("one", "/retry").stdout


def test_near_miss_is_answered_with_the_command_that_is_meant(chat: Chat) -> None:
    assert "Did you mean /undo?" in chat("/udno").stderr


def test_full_context_names_the_commands_that_make_room(chat: Chat) -> None:
    result = chat("a", "b" * 30, "c" * 60, options=("--max-context", "96"))
    assert result.exit_code == 2
    assert "/undo" in result.stderr
    assert "/reset" in result.stderr


def test_answer_that_fills_the_context_names_the_commands_that_make_room(tiny_model: Path) -> None:
    arguments = ["chat", "-m", str(tiny_model), "--threads", "1", "--max-context", "64", "--temperature", "1"]
    result = CliRunner().invoke(cli, arguments, input="a\n")
    assert result.exit_code == 0
    assert "context is full" not in result.stderr or ("/undo" in result.stderr and "/reset" in result.stderr)


@pytest.mark.parametrize("line", ["/frobnicate", "/", "/undo", "/save", "/load", "/load no/such/file", "/fork main", "/retry"])
def test_mistaken_command_ends_a_piped_chat(chat: Chat, line: str) -> None:
    result = chat(line, "never answered")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def _broken(content: dict[str, Any], **changes: object) -> str:
    return json.dumps(content | changes)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"version": 2},
        {"turns": None},
        {"turns": [{"user": "one"}]},
        {"turns": [{"user": "one", "assistant": "a", "token_ids": [-1]}]},
        {"turns": [{"user": "one", "assistant": "a", "token_ids": [True]}]},
        {"turns": [{"user": "one", "assistant": "a", "token_ids": [10**6]}]},
        {"turns": [{"user": "two", "assistant": "a", "token_ids": [1]}]},
        {"token_ids": [1, 2, 3]},
        {"token_ids": "123"},
        {"system": 5},
        {"system": "another"},
        {"now": "yesterday"},
        {"now": 7},
        {"surprise": 1},
    ],
)
def test_damaged_or_foreign_chat_is_refused(chat: Chat, tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "chat.json"
    chat("one", f"/save {path}")
    path.write_text(_broken(_saved(path), **change))
    result = chat(f"/load {path}")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: the file ")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[1]", b"{", b'{"format": NaN}', b"[" * 5000])
def test_file_that_is_no_chat_is_neither_loaded_nor_overwritten(chat: Chat, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "precious"
    path.write_bytes(content)
    for command in ("/load", "/save"):
        assert chat("one", f"{command} {path}").exit_code == 2
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_unanswerable_turn_is_forgotten(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quire.cli.load import load_model
    from quire.cli.options import EngineChoice, SamplingOptions

    loaded = load_model(EngineChoice(model=str(tiny_model), options={"threads": 1}), SamplingOptions(max_tokens=8))
    with loaded.llm as llm:
        session = ChatSession(loaded, chat_session.Dialogue.start(llm, None))
        session.ask("one", _ignore)
        messages = session.dialogue.conversation.messages

        def refuse(_submission: Submission) -> None:
            raise CapacityError("no room", next_step="Make room.")

        with monkeypatch.context() as patch:
            patch.setattr(llm.core, "check", refuse)
            with pytest.raises(CapacityError):
                session.ask("two", _ignore)
        assert session.dialogue.conversation.messages == messages
        assert isinstance(session.ask("two", _ignore), Answer)
        assert len(session.dialogue.answers) == 2


def test_interrupted_answer_stays_in_the_conversation(tiny_model: Path) -> None:
    from quire.cli.load import load_model
    from quire.cli.options import EngineChoice, SamplingOptions

    loaded = load_model(EngineChoice(model=str(tiny_model), options={"threads": 1}), SamplingOptions(max_tokens=16))
    with loaded.llm as llm:
        session = ChatSession(loaded, chat_session.Dialogue.start(llm, None))
        pieces: list[str] = []

        def press_ctrl_c(text: str) -> None:
            pieces.append(text)
            if len(pieces) == 3:
                raise KeyboardInterrupt

        answer = session.ask("one", press_ctrl_c)
        assert (answer.was_interrupted, len(session.dialogue.answers[0])) == (True, 3)
        assert session.dialogue.conversation.messages[-1]["content"] == "".join(pieces)
        assert not llm.core.has_work
        assert len(session.ask("two", _ignore).token_ids) > 0


def test_model_without_a_chat_template_is_refused(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = LLM.__init__

    def load_without_template(llm: LLM, *arguments: Any, **options: Any) -> None:
        loaded(llm, *arguments, **options)
        llm.tokenizer.chat_template = None

    monkeypatch.setattr(LLM, "__init__", load_without_template)
    result = CliRunner().invoke(cli, ["chat", "-m", str(tiny_model), *OPTIONS], input="hi\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "template" in result.stderr
    assert CliRunner().invoke(cli, ["run", "-m", str(tiny_model), "hi", *OPTIONS]).exit_code == 0


def _ignore(_text: str) -> None:
    """Takes an answer's text and shows it nowhere."""


def test_a_retry_that_fails_keeps_the_old_answer(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quire.cli.load import load_model
    from quire.cli.options import EngineChoice, SamplingOptions

    loaded = load_model(EngineChoice(model=str(tiny_model), options={"threads": 1}), SamplingOptions(max_tokens=8))
    with loaded.llm as llm:
        session = ChatSession(loaded, chat_session.Dialogue.start(llm, None))
        session.ask("one", _ignore)
        before, messages = session.dialogue.answers, session.dialogue.conversation.messages

        def refuse(_submission: Submission) -> None:
            raise CapacityError("no room", next_step="Make room.")

        with monkeypatch.context() as patch:
            patch.setattr(llm.core, "check", refuse)
            with pytest.raises(CapacityError):
                session.retry(_ignore)
        assert (session.dialogue.answers, session.dialogue.conversation.messages) == (before, messages)
        session.retry(_ignore)
        assert (session.dialogue.answers, session.dialogue.conversation.messages) == (before, messages)
