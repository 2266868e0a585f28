"""Tokenizers from the metadata of GGUF files: the tokens of the original, its special tokens and its templates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from quire.errors import ModelError, TokenizerError, UnsupportedConfigError
from quire.text.gguf.pieces import merges_of
from quire.text.gguf.pretokenizers import PIPELINES
from quire.text.tokenizer import AddSpecial, Tokenizer
from support import tiny_tokenizers as tiny
from support.gguf_writer import Typed, gguf_bytes

STRINGS = (
    *tiny.TEXTS,
    *(
        "",
        " ",
        "  a  ",
        "a\n\nb\t c",
        "I'LL don't we've",
        "1234567 x2",
        "e\u0301 \u00e9",
        "\u2460\u00bd",
        "x\x00\ufeff\u200b",
        "\u2581\u2581",
    ),
    *(
        "<|im_start|>x<|im_end|>",
        "<|bos|>",
        "(a[b]{c})--==/\\",
        "CamelCase snake_case ALLCAPS",
        "\U0001f1e9\U0001f1ea\U0001f469\u200d\U0001f4bb",
    ),
)


def fields_of(backend: tokenizers.Tokenizer, tokenizer_model: str, pre: str | None = None) -> dict[str, Any]:
    """Returns the metadata that a converter writes for a tokenizer of `tiny`."""
    description = json.loads(backend.to_str())
    ids = backend.get_vocab(with_added_tokens=True)
    tokens = sorted(ids, key=ids.__getitem__)
    special = {token["content"] for token in description["added_tokens"]}
    types = [3 if token in special else 2 if token == tiny.UNKNOWN else 6 if token.startswith("<0x") else 1 for token in tokens]
    merges = description["model"]["merges"]
    fields: dict[str, Any] = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": tokenizer_model,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [Typed(5, each) for each in types],
        "tokenizer.ggml.bos_token_id": ids[tiny.BOS],
        "tokenizer.ggml.eos_token_id": ids[tiny.EOS],
        "tokenizer.ggml.add_bos_token": True,
    }
    if tokenizer_model == "llama":
        order = {"".join(merge): index for index, merge in enumerate(merges)}
        return fields | {"tokenizer.ggml.scores": [float(-order.get(token, 10_000)) for token in tokens]}
    fields["tokenizer.ggml.pre"] = pre
    return fields | {"tokenizer.ggml.merges": [" ".join(merge) for merge in merges]}


def from_fields(directory: Path, fields: dict[str, Any]) -> Tokenizer:
    path = directory / "m.gguf"
    path.write_bytes(gguf_bytes({name: value for name, value in fields.items() if value is not None}, {}))
    return Tokenizer.from_model(path)


def require_same(found: Tokenizer, expected: Tokenizer) -> None:
    for text in STRINGS:
        for special in AddSpecial:
            assert found.encode(text, special=special) == expected.encode(text, special=special), ascii(text)
        token_ids = expected.encode(text)
        for skip in (True, False):
            assert found.decode(token_ids, skip_special=skip) == expected.decode(token_ids, skip_special=skip)
    assert found.ids_by_token() == expected.ids_by_token()
    assert found.special_ids == expected.special_ids
    assert found.bos_token == expected.bos_token


def test_byte_level_tokens_are_those_of_the_original(tmp_path: Path) -> None:
    found = from_fields(tmp_path, fields_of(tiny.byte_level_backend(), "gpt2", "gpt-2"))
    require_same(found, tiny.byte_level())


def test_sentencepiece_tokens_are_those_of_the_original(tmp_path: Path) -> None:
    fields = fields_of(tiny.sentencepiece_backend(), "llama")
    expected = tiny.sentencepiece_backend()
    expected.add_special_tokens([tokenizers.AddedToken(tiny.UNKNOWN, special=True, normalized=False)])
    require_same(from_fields(tmp_path, fields), tiny.wrapped(expected))


@pytest.mark.parametrize("name", PIPELINES)
def test_every_way_of_cutting_loses_nothing(tmp_path: Path, name: str) -> None:
    found = from_fields(tmp_path, fields_of(tiny.byte_level_backend(), "gpt2", name))
    for text in STRINGS:
        composed = PIPELINES[name].is_composed
        decoded = found.decode(found.encode(text, special=AddSpecial.NO), skip_special=False)
        assert decoded == ("\u00e9 \u00e9" if composed and text == "e\u0301 \u00e9" else text)


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("gpt-2", ["He", "'ll", "\u0120pay", "\u01201234", "!!", "\u010a", "\u010a", "x", "\u0120\u0120", "\u0120y"]),
        (
            "smollm",
            ["He", "'ll", "\u0120pay", "\u0120", "1", "2", "3", "4", "!!", "\u010a", "\u010a", "x", "\u0120\u0120", "\u0120y"],
        ),
        ("llama-bpe", ["He", "'ll", "\u0120pay", "\u0120", "123", "4", "!!\u010a\u010a", "x", "\u0120\u0120", "\u0120y"]),
        ("qwen2", ["He", "'ll", "\u0120pay", "\u0120", "1", "2", "3", "4", "!!\u010a\u010a", "x", "\u0120\u0120", "\u0120y"]),
        ("tekken", ["He", "'ll", "\u0120pay", "\u0120", "1", "2", "3", "4", "!!\u010a\u010a", "x", "\u0120\u0120", "\u0120y"]),
        ("gpt-4o", ["He'll", "\u0120pay", "\u0120", "123", "4", "!!\u010a\u010a", "x", "\u0120\u0120", "\u0120y"]),
        ("deepseek-v3", ["He", "'ll", "\u0120pay", "\u0120", "123", "4", "!!\u010a\u010a", "x", "\u0120\u0120", "\u0120y"]),
    ],
)
def test_pipelines_cut_where_their_originals_do(name: str, pieces: list[str]) -> None:
    cut = PIPELINES[name].pre_tokenizer.pre_tokenize_str("He'll pay 1234!!\n\nx   y")
    assert [piece for piece, _ in cut] == pieces


# -- special tokens and templates ----------------------------------------------------


def test_answers_end_at_the_named_tokens_and_at_known_ends_of_turns(tmp_path: Path) -> None:
    fields = fields_of(tiny.byte_level_backend(), "gpt2", "gpt-2")
    ids = {token: index for index, token in enumerate(fields["tokenizer.ggml.tokens"])}
    fields |= {"tokenizer.ggml.eos_token_id": ids[tiny.BOS], "tokenizer.ggml.eot_token_id": ids["<|im_start|>"]}
    assert from_fields(tmp_path, fields).eos_token_ids == {ids[tiny.BOS], ids["<|im_start|>"], ids["<|im_end|>"]}


@pytest.mark.parametrize(("adds_bos", "adds_eos"), [(True, True), (False, True), (False, False), (None, None)])
def test_first_and_last_tokens_are_added_as_the_file_says(tmp_path: Path, adds_bos: bool | None, adds_eos: bool | None) -> None:
    for tokenizer_model, default in (("gpt2", False), ("llama", True)):
        backend = tiny.byte_level_backend() if tokenizer_model == "gpt2" else tiny.sentencepiece_backend()
        fields = fields_of(backend, tokenizer_model, "gpt-2") | {
            "tokenizer.ggml.add_bos_token": adds_bos,
            "tokenizer.ggml.add_eos_token": adds_eos,
        }
        found = from_fields(tmp_path, fields)
        added = found.encode("a"), found.encode("a", special=AddSpecial.NO)
        first = [found.id_of(tiny.BOS)] if (default if adds_bos is None else adds_bos) else []
        assert added[0] == [*first, *added[1], *([found.id_of(tiny.EOS)] if adds_eos else [])]


def test_a_space_before_the_text_is_added_unless_the_file_says_no(tmp_path: Path) -> None:
    fields = fields_of(tiny.sentencepiece_backend(), "llama")
    with_prefix, without = (from_fields(tmp_path, fields | {"tokenizer.ggml.add_space_prefix": flag}) for flag in (True, False))
    assert with_prefix.encode("the") == without.encode(" the") != without.encode("the")
    assert with_prefix.decode(with_prefix.encode("the")) == without.decode(without.encode("the")) == "the"


def test_tokens_of_the_user_are_found_whole_and_are_text(tmp_path: Path) -> None:
    fields = fields_of(tiny.byte_level_backend(), "gpt2", "gpt-2")
    fields["tokenizer.ggml.tokens"] += ["<think>", "[PAD1]"]
    fields["tokenizer.ggml.token_type"] += [Typed(5, 4), Typed(5, 5)]
    found = from_fields(tmp_path, fields)
    think = found.id_of("<think>")
    assert think in found.encode("a<think>b")
    assert think not in found.special_ids
    assert found.id_of("[PAD1]") not in found.encode("[PAD1]")


def test_special_tokens_of_phi3_take_the_space_behind_them(tmp_path: Path) -> None:
    fields = fields_of(tiny.sentencepiece_backend(), "llama")
    tokens = [
        from_fields(tmp_path, fields | {"general.architecture": name}).encode("<|im_end|>\nthe") for name in ("phi3", "llama")
    ]
    assert len(tokens[0]) < len(tokens[1])


def test_fields_that_change_no_token_are_accepted(tmp_path: Path) -> None:
    fields = fields_of(tiny.byte_level_backend(), "gpt2", "gpt-2")
    more = {
        "add_space_prefix": False,
        "remove_extra_whitespaces": False,
        "fim_pre_token_id": 1,
        "add_sep_token": True,
        "scores": [0.0],
    }
    found = from_fields(tmp_path, fields | {f"tokenizer.ggml.{name}": value for name, value in more.items()})
    require_same(found, tiny.byte_level())
    fields = fields_of(tiny.sentencepiece_backend(), "llama")
    more = {"tokenizer.ggml.pre": "default", "tokenizer.ggml.merges": ["a b"]}
    assert from_fields(tmp_path, fields | more).encode("the") == from_fields(tmp_path, fields).encode("the")


def test_several_ends_of_an_answer_are_read(tmp_path: Path) -> None:
    fields = fields_of(tiny.byte_level_backend(), "gpt2", "gpt-2")
    before = from_fields(tmp_path, fields).eos_token_ids
    assert from_fields(tmp_path, fields | {"tokenizer.ggml.eos_token_ids": [5, 7]}).eos_token_ids == {*before, 5, 7}


def test_templates_come_by_name(tmp_path: Path) -> None:
    fields = fields_of(tiny.byte_level_backend(), "gpt2", "gpt-2")
    assert from_fields(tmp_path, fields).chat_template is None
    fields |= {"tokenizer.chat_template": "x"}
    assert from_fields(tmp_path, fields).chat_template == "x"
    fields |= {"tokenizer.chat_template.tool_use": "y", "tokenizer.chat_templates": ["tool_use"]}
    assert from_fields(tmp_path, fields).chat_template == {"default": "x", "tool_use": "y"}


# -- refusals ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tokenizer.ggml.model": "bert"}, "tokenizer.ggml.model"),
        ({"tokenizer.ggml.model": None}, "tokenizer.ggml.model"),
        ({"tokenizer.ggml.pre": "unheard-of"}, "tokenizer.ggml.pre"),
        ({"tokenizer.ggml.pre": None}, "tokenizer.ggml.pre"),
        ({"tokenizer.ggml.tokens": None}, "tokenizer.ggml.tokens"),
        ({"tokenizer.ggml.tokens": [1, 2]}, "tokenizer.ggml.tokens"),
        ({"tokenizer.ggml.tokens": "abc"}, "tokenizer.ggml.tokens"),
        ({"tokenizer.ggml.tokens": ["a", "a"]}, "same token twice"),
        ({"tokenizer.ggml.tokens": [b"\xff", "a"]}, "not UTF-8"),
        ({"tokenizer.ggml.tokens": ["a", "b" * 4097]}, "tokenizer.ggml.tokens .* 4097 bytes at index 1"),
        ({"tokenizer.ggml.merges": ["a b", f"a {'b' * 8192}"]}, "tokenizer.ggml.merges .* 8194 bytes at index 1"),
        ({"tokenizer.ggml.merges": ["a b"] * 10_000}, "merges is too long .*list of 10000"),
        ({"tokenizer.ggml.tokens": ["a"], "tokenizer.ggml.token_type": [1, 1]}, "token_type is too long .*list of 2"),
        ({"tokenizer.ggml.token_type": [1]}, "tokenizer.ggml.token_type"),
        ({"tokenizer.ggml.merges": ["ab"]}, "tokenizer.ggml.merges"),
        ({"tokenizer.ggml.merges": ["a b c"]}, "tokenizer.ggml.merges"),
        ({"tokenizer.ggml.merges": ["q\u0416 x"]}, "do not make a tokenizer"),
        ({"tokenizer.ggml.bos_token_id": 10**6}, "tokenizer.ggml.bos_token_id"),
        ({"tokenizer.ggml.bos_token_id": "a"}, "tokenizer.ggml.bos_token_id"),
        ({"tokenizer.ggml.add_bos_token": 1}, "tokenizer.ggml.add_bos_token"),
        ({"tokenizer.chat_template": 1}, "tokenizer.chat_template"),
        ({"tokenizer.ggml.remove_extra_whitespaces": True}, "tokenizer.ggml.remove_extra_whitespaces"),
        ({"tokenizer.ggml.add_space_prefix": True}, "tokenizer.ggml.add_space_prefix"),
        ({"tokenizer.ggml.precompiled_charsmap": [Typed(0, 1)]}, "tokenizer.ggml.precompiled_charsmap"),
        ({"tokenizer.ggml.added_tokens": ["c"]}, "tokenizer.ggml.added_tokens"),
        ({"tokenizer.ggml.eos_token_ids": [1, 10**6]}, "tokenizer.ggml.eos_token_ids"),
        ({"general.architecture": None}, "general.architecture"),
    ],
)
def test_a_field_that_makes_no_tokenizer_is_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises((UnsupportedConfigError, TokenizerError), match=words):
        from_fields(tmp_path, fields_of(tiny.byte_level_backend(), "gpt2", "gpt-2") | change)


class _Watched(str):
    """A piece that counts the parts taken of it."""

    __slots__ = ("num_parts",)

    def __getitem__(self, key: Any) -> str:
        self.num_parts = getattr(self, "num_parts", 0) + 1
        return super().__getitem__(key)


def test_a_long_piece_is_cut_only_where_both_parts_can_be_pieces() -> None:
    piece = _Watched("a" * 4000)
    pieces = ["a", "aa", "b" * 3998, "a" * 3999, piece]
    assert merges_of(pieces, range(len(pieces)), [True] * len(pieces))[-2:] == [("a", "a" * 3999), ("a" * 3999, "a")]
    assert piece.num_parts < 10


def test_merges_are_all_ways_to_join_two_pieces() -> None:
    pieces = ["", "a", "b", "ab", "ba", "aba", "x"]
    joins = {(left, right) for left in pieces[1:] for right in pieces[1:] if left + right in pieces}
    merges = merges_of(pieces, range(len(pieces)), [True] * len(pieces))
    assert len(merges) == len(joins)
    assert set(merges) == joins


@pytest.mark.parametrize("scores", [None, [1.0], [float("nan")] * 379, [1.0] * 10_000])
def test_scores_must_be_a_number_per_token(tmp_path: Path, scores: list[float] | None) -> None:
    with pytest.raises(ModelError, match="scores"):
        from_fields(tmp_path, fields_of(tiny.sentencepiece_backend(), "llama") | {"tokenizer.ggml.scores": scores})
