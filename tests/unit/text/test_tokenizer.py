"""Loading tokenizers from a model directory, and what they answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quire.errors import RequestError, TokenizerError
from quire.text.detokenizer import IncrementalDetokenizer
from quire.text.tokenizer import AddSpecial, Tokenizer
from support import tiny_tokenizers as tiny


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    tiny.byte_level_backend().save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def test_a_directory_with_tokenizer_json_alone_is_enough(directory: Path) -> None:
    tokenizer = Tokenizer.from_directory(directory)
    assert tokenizer.decode(tokenizer.encode("naïve café")) == "naïve café"
    assert tokenizer.eos_token_ids == frozenset()
    assert tokenizer.bos_token is None
    assert tokenizer.chat_template is None


def test_special_tokens_are_added_only_when_asked_for(directory: Path) -> None:
    tokenizer = Tokenizer.from_directory(directory)
    plain = tokenizer.encode("Paris", special=AddSpecial.NO)
    with_bos = tokenizer.encode("Paris")
    assert with_bos[1:] == plain
    assert with_bos[0] in tokenizer.special_ids
    assert tokenizer.decode(with_bos) == "Paris"
    assert tokenizer.decode(with_bos, skip_special=False) == "<|bos|>Paris"


def test_truncation_written_into_tokenizer_json_shortens_no_prompt(directory: Path) -> None:
    backend = tiny.byte_level_backend()
    backend.enable_truncation(max_length=3)
    backend.enable_padding(length=50)
    backend.save(str(directory / "tokenizer.json"))
    text = "The capital of France is Paris. What is the capital of Japan?"
    assert Tokenizer.from_directory(directory).decode(Tokenizer.from_directory(directory).encode(text)) == text


def test_ids_that_end_an_answer_come_from_every_file_that_names_them(directory: Path) -> None:
    write(directory / "generation_config.json", {"eos_token_id": [5, 6]})
    write(directory / "config.json", {"eos_token_id": 7})
    write(directory / "tokenizer_config.json", {"eos_token": {"content": tiny.EOS}, "bos_token": tiny.BOS})
    tokenizer = Tokenizer.from_directory(directory)
    (eos_id,) = tokenizer.encode(tiny.EOS, special=AddSpecial.NO)
    assert tokenizer.eos_token_ids == {5, 6, eos_id}
    assert tokenizer.bos_token == tiny.BOS
    (directory / "generation_config.json").unlink()
    assert Tokenizer.from_directory(directory).eos_token_ids == {7, eos_id}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("{{ x }}", "{{ x }}"),
        ([{"name": "default", "template": "{{ x }}"}], "{{ x }}"),
        (
            [{"name": "tool_use", "template": "other"}, {"name": "default", "template": "{{ x }}"}],
            {"tool_use": "other", "default": "{{ x }}"},
        ),
        ([{"name": "rag", "template": "r"}], {"rag": "r"}),
        ([], None),
        (None, None),
    ],
)
def test_the_chat_template_may_be_a_text_or_several_by_name(directory: Path, value: object, expected: object) -> None:
    write(directory / "tokenizer_config.json", {"chat_template": value})
    assert Tokenizer.from_directory(directory).chat_template == expected


def test_a_chat_template_of_its_own_file_wins(directory: Path) -> None:
    write(directory / "tokenizer_config.json", {"chat_template": [{"name": "default", "template": "old"}]})
    write(directory / "chat_template.json", {"chat_template": "older"})
    (directory / "chat_template.jinja").write_text("new")
    assert Tokenizer.from_directory(directory).chat_template == "new"


def test_further_chat_templates_have_files_of_their_own(directory: Path) -> None:
    write(directory / "tokenizer_config.json", {"chat_template": "old"})
    (directory / "additional_chat_templates").mkdir()
    (directory / "additional_chat_templates" / "tool_use.jinja").write_text("t")
    (directory / "additional_chat_templates" / "notes.txt").write_text("not one")
    assert Tokenizer.from_directory(directory).chat_template == {"default": "old", "tool_use": "t"}
    (directory / "chat_template.jinja").write_text("new")
    assert Tokenizer.from_directory(directory).chat_template == {"default": "new", "tool_use": "t"}


def test_a_processors_chat_template_is_the_last_choice(directory: Path) -> None:
    write(directory / "chat_template.json", {"chat_template": "{{ x }}"})
    assert Tokenizer.from_directory(directory).chat_template == "{{ x }}"
    write(directory / "tokenizer_config.json", {"chat_template": "better"})
    assert Tokenizer.from_directory(directory).chat_template == "better"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", b"{"),
        ("tokenizer.json", b"\xff\xfe"),
        ("tokenizer_config.json", b"[1]"),
        ("tokenizer_config.json", b'{"chat_template": 7}'),
        ("tokenizer_config.json", b'{"chat_template": [{"name": "default"}]}'),
        ("tokenizer_config.json", b'{"chat_template": [{"name": 1, "template": "x"}]}'),
        ("tokenizer_config.json", b'{"chat_template": ["x"]}'),
        ("chat_template.json", b'{"chat_template": 7}'),
        ("special_tokens_map.json", b"[" * 100_000),
        ("generation_config.json", b'{"eos_token_id": "2"}'),
        ("generation_config.json", b'{"eos_token_id": [true]}'),
        ("config.json", b'{"eos_token_id": -1}'),
        ("chat_template.jinja", b"\xff"),
    ],
)
def test_a_damaged_file_is_named(directory: Path, name: str, content: bytes) -> None:
    (directory / name).write_bytes(content)
    with pytest.raises(TokenizerError, match="is damaged"):
        Tokenizer.from_directory(directory)


def test_a_missing_tokenizer_says_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.json cannot be read"):
        Tokenizer.from_directory(tmp_path)


def test_a_json_file_beyond_all_reason_is_not_read(directory: Path) -> None:
    with (directory / "tokenizer_config.json").open("wb") as file:
        file.truncate(17 * 2**20)
    with pytest.raises(TokenizerError, match="too large"):
        Tokenizer.from_directory(directory)


def test_text_that_is_no_unicode_is_refused_as_the_requests_fault() -> None:
    with pytest.raises(RequestError, match="surrogate at character 1"):
        tiny.byte_level().encode("a\ud800")


def test_token_text_keeps_the_space_of_a_word() -> None:
    for tokenizer in (tiny.byte_level(), tiny.sentencepiece()):
        token_ids = tokenizer.encode("of the capital", special=AddSpecial.NO)
        assert "".join(map(tokenizer.token_text, token_ids)).lstrip() == "of the capital"
        assert tokenizer.token_text(tokenizer.vocab_size + 9) == ""


@pytest.mark.parametrize("make", [tiny.byte_level, tiny.sentencepiece])
def test_a_character_of_many_tokens_appears_with_its_last(make: object) -> None:
    tokenizer = make()  # type: ignore[operator]
    token_ids = tokenizer.encode_continuation("\N{MICROSCOPE}")
    detokenizer = IncrementalDetokenizer(tokenizer, skip_special=True)
    assert len(token_ids) > 2
    assert [*map(detokenizer.push, token_ids)] == [*[""] * (len(token_ids) - 1), "\N{MICROSCOPE}"]
    assert detokenizer.finish() == ""


@pytest.mark.parametrize("make", [tiny.byte_level, tiny.sentencepiece])
def test_a_character_that_never_becomes_whole_ends_as_a_replacement(make: object) -> None:
    tokenizer = make()  # type: ignore[operator]
    detokenizer = IncrementalDetokenizer(tokenizer, skip_special=True)
    for token_id in tokenizer.encode_continuation("\N{MICROSCOPE}")[:-1]:
        assert detokenizer.push(token_id) == ""
    assert detokenizer.finish() == "\ufffd"


def test_an_answer_keeps_the_space_that_separates_it_from_its_prompt() -> None:
    tokenizer = tiny.sentencepiece()
    prompt, answer = (tokenizer.encode(word, special=AddSpecial.NO) for word in ("France", "Japan"))
    alone = IncrementalDetokenizer(tokenizer, skip_special=True)
    behind = IncrementalDetokenizer(tokenizer, skip_special=True, after=prompt)
    assert "".join(map(alone.push, answer)) == "Japan"
    assert "".join(map(behind.push, answer)) == " Japan"
