"""Which fields beside tokenizer.json are accepted, and which are refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models

from quire.errors import TokenizerError, UnsupportedConfigError
from quire.text.tokenizer import AddSpecial, Tokenizer
from quire.text.tokenizer_fit import require_fit
from support import tiny_tokenizers as tiny

_COMMON = {"clean_up_tokenization_spaces": False, "model_max_length": 131072, "chat_template": "{{ messages }}"}
PUBLISHED: dict[str, dict[str, Any]] = {
    "gpt2": {"model_max_length": 1024},
    "distilgpt2": {"model_max_length": 1024, "add_bos_token": False, "errors": "replace", "tokenizer_class": "GPT2Tokenizer"},
    "Llama 1": {"add_bos_token": True, "add_eos_token": False, "sp_model_kwargs": {}, "pad_token": None, "legacy": False},
    "Llama 2": {"legacy": False, "padding_side": "right", "use_default_system_prompt": False, "sp_model_kwargs": {}},
    "Llama 3": _COMMON | {"model_input_names": ["input_ids", "attention_mask"], "tokenizer_class": "PreTrainedTokenizerFast"},
    "Mistral": {
        "additional_special_tokens": [],
        "spaces_between_special_tokens": False,
        "add_prefix_space": None,
        "legacy": False,
    },
    "Qwen2.5": _COMMON | {"add_prefix_space": False, "errors": "replace", "split_special_tokens": False, "unk_token": None},
    "Phi-3": {"legacy": False, "padding_side": "left", "sp_model_kwargs": {}, "use_default_system_prompt": False},
    "Phi-4-mini": {"add_eos_token": False, "add_prefix_space": False, "tokenizer_class": "GPT2TokenizerFast"},
    "Gemma 3": {"boi_token": tiny.BOS, "eoi_token": tiny.EOS, "image_token": tiny.EOS, "processor_class": "Gemma3Processor"},
    "OLMo 2": {"add_prefix_space": False, "extra_special_tokens": {}, "errors": "replace"},
    "DeepSeek distill": {"legacy": True, "add_eos_token": False, "sp_model_kwargs": {}, "tokenizer_class": "LlamaTokenizerFast"},
    "Falcon3": {"return_token_type_ids": False, "padding_side": "left", "clean_up_tokenization_spaces": True},
    "saved by transformers 5": {"backend": "tokenizers", "is_local": True, "local_files_only": False, "max_length": 512},
    "saved for training": {
        "truncation_side": "right",
        "truncation_strategy": "longest_first",
        "stride": 0,
        "pad_to_multiple_of": None,
    },
    "unsloth": {"unsloth_version": "2026.1", "padding_side": "right", "auto_map": None},
}


def load(directory: Path, settings: dict[str, Any], backend: tokenizers.Tokenizer | None = None, **files: Any) -> Tokenizer:
    (backend or tiny.byte_level_backend()).save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return Tokenizer.from_directory(directory)


@pytest.mark.parametrize("model", PUBLISHED)
def test_fields_of_published_tokenizers_change_nothing(model: str, tmp_path: Path) -> None:
    names = {"bos_token": tiny.BOS, "eos_token": tiny.EOS}
    tokenizer = load(tmp_path, names | PUBLISHED[model])
    text = "Hello <|im_end|> world"
    assert tokenizer.encode(text) == tiny.byte_level().encode(text)


@pytest.mark.parametrize("field", [{"do_lower_case": True}, {"new_setting": {"a": 1}}, {"x_token": 7}])
@pytest.mark.parametrize("name", ["tokenizer_config", "special_tokens_map"])
def test_unknown_fields_are_refused_by_name(field: dict[str, Any], name: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedConfigError, match=rf"{name}\.json holds fields.*{next(iter(field))}"):
        load(tmp_path, {}, **{name: field})


@pytest.mark.parametrize("value", [None, False, "", [], {}, 0])
def test_an_unknown_field_that_asks_for_nothing_is_accepted(value: object, tmp_path: Path) -> None:
    load(tmp_path, {"new_setting": value})


@pytest.mark.parametrize("name", ["add_prefix_space", "split_special_tokens", "clean_up_tokenization_spaces"])
def test_a_switch_is_true_or_false(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedConfigError, match=f"{name} must be true or false"):
        load(tmp_path, {name: "yes"})


def test_cleaned_spaces_are_refused_where_they_would_change_a_text(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedConfigError, match="clean_up_tokenization_spaces"):
        load(tmp_path, {"clean_up_tokenization_spaces": True}, tiny.word_piece_backend())


def test_code_of_a_tokenizer_is_left_out_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(tmp_path, {"auto_map": {"AutoTokenizer": ["tokenization_x.X", None]}})
    assert "auto_map is ignored" in caplog.text


@pytest.mark.parametrize(
    "settings",
    [
        {"added_tokens_decoder": []},
        {"added_tokens_decoder": {"x": {"content": "<x>"}}},
        {"added_tokens_decoder": {"3": "<x>"}},
        {"added_tokens_decoder": {"9" * 5000: {"content": "<x>"}}},
        {"added_tokens_decoder": {"3": {"content": "<x>", "lstrip": 1}}},
        {"added_tokens_decoder": {"3": {"content": None}}},
        {"additional_special_tokens": "<x>"},
        {"extra_special_tokens": [3]},
        {"eos_token": {"lstrip": True}},
        {"chat_control_tokens": [1]},
    ],
)
def test_damaged_declarations_are_named(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=f"{next(iter(settings))}.*is damaged"):
        load(tmp_path, settings)


@pytest.mark.parametrize("ids", [[7], [400], [333, 335]])
def test_a_declared_id_that_the_token_cannot_have_is_refused(ids: list[int], tmp_path: Path) -> None:
    size = tiny.byte_level().vocab_size
    assert size == 333
    decoder = {str(token_id): {"content": f"<new {token_id}>", "special": True} for token_id in ids}
    with pytest.raises(TokenizerError, match=r"does not follow tokenizer\.json"):
        load(tmp_path, {"added_tokens_decoder": decoder})


def test_a_model_must_have_all_tokens_of_its_tokenizer(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, {})
    require_fit(tokenizer, tokenizer.vocab_size)
    require_fit(tokenizer, tokenizer.vocab_size + 64)
    with pytest.raises(TokenizerError, match=r"tokens that the model does not have \(given: 3: .*limit: ids 0 to 329"):
        require_fit(tokenizer, tokenizer.vocab_size - 3)


def test_tokens_that_text_does_not_need_may_be_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    backend = tiny.byte_level_backend()
    backend.add_special_tokens([AddedToken("<image>", special=True)])
    tokenizer = load(tmp_path, {"image_token": "<image>", "pad_token": "<pad>"}, backend)
    require_fit(tokenizer, tokenizer.vocab_size - 2)
    assert "<image>, <pad>" in caplog.text


@pytest.mark.parametrize("name", ["config", "generation_config"])
@pytest.mark.parametrize("eos", [333, [5, 333], 10**9])
def test_an_id_that_ends_an_answer_must_be_a_token_of_the_model(name: str, eos: object, tmp_path: Path) -> None:
    tokenizer = load(tmp_path, {}, **{name: {"eos_token_id": eos}})
    with pytest.raises(TokenizerError, match="eos_token_id is a token that the model does not have"):
        require_fit(tokenizer, 333)


@pytest.mark.parametrize("content", ["stra\u00dfe", "\u0111em", "\u010d", "<na\u00efve>", "\u65e5\u672c", "a\u2581b"])
@pytest.mark.parametrize(("kind", "normalized"), [("byte level", False), ("byte level", True), ("SentencePiece", False)])
def test_added_tokens_are_literal_text(content: str, kind: str, normalized: bool, tmp_path: Path) -> None:
    backend = tiny.byte_level_backend() if kind == "byte level" else tiny.sentencepiece_backend()
    backend.add_tokens([AddedToken(content, normalized=normalized)])
    tokenizer = load(tmp_path, {}, backend)
    token_id = tokenizer.id_of(content)
    assert token_id is not None
    assert tokenizer.bytes_of(token_id) == content.encode()
    assert tokenizer.decode([token_id, token_id]) == content * 2
    around = tokenizer.encode("Paris", special=AddSpecial.NO)
    assert tokenizer.decode([*around, token_id]) == f"Paris{content}"


def test_added_tokens_that_are_found_in_normalized_text_keep_the_space_found_with_them(tmp_path: Path) -> None:
    backend = tiny.sentencepiece_backend()
    backend.add_tokens([AddedToken("stra\u00dfe", normalized=True)])
    tokenizer = load(tmp_path, {}, backend)
    text = "the stra\u00dfe the"
    ids = tokenizer.encode(text, special=AddSpecial.NO)
    assert tokenizer.id_of("stra\u00dfe") in ids
    assert tokenizer.decode(ids) == text


def test_an_added_token_that_looks_like_a_byte_is_text_where_bytes_are_no_pieces(tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_tokens([AddedToken("<0x41>", normalized=False)])
    tokenizer = load(tmp_path, {}, backend)
    assert tokenizer.decode(tokenizer.encode("a<0x41>a")) == "a<0x41>a"


def test_pieces_of_sentencepiece_that_are_listed_as_added_tokens_stay_spaces(tmp_path: Path) -> None:
    backend = tiny.sentencepiece_backend()
    backend.add_tokens([AddedToken("\u2581", normalized=False)])
    tokenizer = load(tmp_path, {}, backend)
    assert tokenizer.bytes_of(tokenizer.id_of("\u2581") or 0) == b" "


def test_the_space_of_a_decoder_is_dropped_before_literal_text_too(tmp_path: Path) -> None:
    backend = tiny.sentencepiece_backend()
    backend.add_tokens([AddedToken("a\u2581b", normalized=False)])
    tokenizer = load(tmp_path, {}, backend)
    ids = [*tokenizer.encode("the", special=AddSpecial.NO), tokenizer.id_of("a\u2581b") or 0]
    assert tokenizer.decode(ids) == "thea\u2581b"
    assert tokenizer.decode([tokenizer.id_of(tiny.BOS) or 0, *ids]) == "thea\u2581b"
