"""Files become documents, or an error that names the file and the line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.errors import ConfigError
from quire.train.documents import Document, read_documents

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
TEXT = st.text(st.characters(codec="utf-8"), min_size=1)
MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(["system", "user"]), "content": TEXT})


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), encoding="utf-8")
    return path


@given(texts=st.lists(TEXT, min_size=1), talks=st.lists(st.lists(MESSAGE)))
def test_what_json_spells_is_what_is_read(
    texts: list[str], talks: list[list[dict[str, str]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines: list[dict[str, object]] = [{"text": text} for text in texts]
    lines += [{"messages": [*talk, TALK[1]]} for talk in talks]
    path = write(tmp_path_factory.getbasetemp() / "any.jsonl", *lines)
    found = list(read_documents([path]))
    assert [document.text for document in found[: len(texts)]] == texts
    assert [list(document.messages) for document in found[len(texts) :]] == [[*talk, TALK[1]] for talk in talks]
    assert [document.where for document in found] == [f"{path}:{number}" for number in range(1, len(lines) + 1)]


def test_files_are_read_in_order_and_a_text_file_is_one_document(tmp_path: Path) -> None:
    notes = tmp_path / "notes.TXT"
    notes.write_bytes("\N{BYTE ORDER MARK}First line.\r\nSecond line.\n".encode())
    chats = write(tmp_path / "chats.jsonl", {"messages": TALK, "source": "elsewhere"}, "", {"text": "A sentence."})
    blank = write(tmp_path / "blank.md", " ")
    assert list(read_documents([chats, blank, notes])) == [
        Document(messages=tuple(TALK), where=f"{chats}:1"),
        Document(text="A sentence.", where=f"{chats}:3"),
        Document(text="First line.\nSecond line.\n", where=str(notes)),
    ]


def test_a_document_offers_its_texts_to_a_tokenizer() -> None:
    assert list(Document(messages=tuple(TALK), where="here").pieces()) == ["Hi", "Hello!"]
    assert list(Document(text="A text.", where="here").pieces()) == ["A text."]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"text": "cut off', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[1, 2]", "neither text nor a conversation"),
        ("{}", "neither text nor a conversation"),
        ('{"text": ""}', "neither text nor a conversation"),
        ('{"text": 7}', "neither text nor a conversation"),
        ('{"messages": []}', "neither text nor a conversation"),
        ('{"messages": [{"role": "user"}]}', "neither text nor a conversation"),
        ('{"messages": [{"role": "assistant", "content": ["parts"]}]}', "neither text nor a conversation"),
        ('{"text": "a", "messages": [{"role": "assistant", "content": "b"}]}', "neither text nor a conversation"),
        ('{"messages": [{"role": "user", "content": "Hi"}]}', "no answer to learn"),
        ('{"text": "\\ud800"}', "not valid Unicode"),
        ('{"messages": [{"role": "assistant", "content": "\\udfff"}]}', "not valid Unicode"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, problem: str) -> None:
    path = write(tmp_path / "chats.jsonl", {"messages": TALK}, "", line)
    with pytest.raises(ConfigError, match=problem) as caught:
        list(read_documents([path]))
    assert f"{path}:3" in str(caught.value)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("a,b")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "caf\xe9"}')
    (tmp_path / "folder.txt").mkdir()
    for name, problem in (
        ("table.csv", "unknown file type"),
        ("missing.txt", "No such file"),
        ("missing.jsonl", "No such file"),
        ("latin.txt", "cannot be read"),
        ("latin.jsonl", "cannot be read"),
        ("folder.txt", "directory"),
    ):
        with pytest.raises(ConfigError, match=problem) as caught:
            list(read_documents([tmp_path / name]))
        assert name in str(caught.value)
