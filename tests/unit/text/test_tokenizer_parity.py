"""The same tokens as AutoTokenizer of transformers, for every way in which the files of a directory declare them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from transformers import AutoTokenizer

from quire.text.tokenizer import AddSpecial, Tokenizer
from support import tiny_tokenizers as tiny

FLAGS = {"normalized": False, "lstrip": False, "rstrip": False, "single_word": False}
NEW = "<|new|>"
TEXT = f"Hi{NEW}\n<|im_start|>user {tiny.EOS} <|im_end|>x</s><e>  b <seen> {tiny.BOS}"


def byte_level() -> tokenizers.Tokenizer:
    """Has the words <e> and <f>, an added token <seen>, and the special tokens of `tiny`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<e", "<e>", "<f", "<f>"]
    vocab = {token: token_id for token_id, token in enumerate([*alphabet, *words])}
    merges = [("<", "e"), ("<e", ">"), ("<", "f"), ("<f", ">")]
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in tiny.SPECIALS])
    backend.add_tokens([AddedToken("<seen>", special=False, normalized=False)])
    return backend


BACKENDS: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "byte level": cache(byte_level),
    "SentencePiece": cache(tiny.sentencepiece_backend),
}
NAMED = {"bos_token": tiny.BOS, "eos_token": tiny.EOS}


def token(content: str, **flags: Any) -> dict[str, Any]:
    return {"content": content, "special": True} | FLAGS | flags


def cases(size: int) -> dict[str, dict[str, Any]]:
    """Files by name for each case; `size` is the next free token id."""
    new, settings, token_map = str(size), "tokenizer_config.json", "special_tokens_map.json"
    return {
        "nothing": {},
        "names": {settings: NAMED},
        "added token by id": {settings: NAMED | {"added_tokens_decoder": {new: token(NEW)}}},
        "added token that is shown": {settings: NAMED | {"added_tokens_decoder": {new: token(NEW, special=False)}}},
        "added token that takes spaces": {
            settings: NAMED | {"added_tokens_decoder": {new: token(NEW, rstrip=True, lstrip=True)}}
        },
        "other flags": {settings: {"added_tokens_decoder": {str(size - 1): token("<seen>", lstrip=True)}}},
        "ids in another order": {settings: {"added_tokens_decoder": {str(size + 1): token("<x>"), new: token(NEW)}}},
        "further special tokens": {settings: NAMED | {"additional_special_tokens": [NEW, tiny.EOS, "<seen>", "<e>"]}},
        "extra special tokens": {settings: NAMED | {"extra_special_tokens": [NEW]}},
        "extra before additional": {settings: {"extra_special_tokens": ["<x>"], "additional_special_tokens": [NEW]}},
        "empty extra": {settings: {"extra_special_tokens": [], "additional_special_tokens": [NEW]}},
        "extra by name": {settings: {"extra_special_tokens": {"image_token": NEW, "boi_token": "<e>"}}},
        "image token": {settings: NAMED | {"image_token": NEW}},
        "added_tokens.json": {settings: NAMED, "added_tokens.json": {"<x>": size + 1, NEW: size}},
        "named in added_tokens.json": {settings: {"eos_token": NEW}, "added_tokens.json": {NEW: size}},
        "added_tokens.json beside added_tokens_decoder": {
            settings: NAMED | {"added_tokens_decoder": {new: token(NEW)}},
            "added_tokens.json": {"<x>": size},
        },
        "map": {token_map: NAMED},
        "map before settings": {settings: {"eos_token": "<e>"}, token_map: {"eos_token": token(NEW)}},
        "null in the map": {settings: {"eos_token": tiny.EOS}, token_map: {"eos_token": None}},
        "null in the settings": {settings: {"eos_token": None}, token_map: {"eos_token": tiny.EOS}},
        "map beside added_tokens_decoder": {settings: {"added_tokens_decoder": {}}, token_map: {"eos_token": NEW}},
        "further tokens of the map": {settings: NAMED, token_map: {"additional_special_tokens": [NEW]}},
        "more extra tokens of the map": {settings: {"extra_special_tokens": ["<x>"]}, token_map: {"extra_special_tokens": [NEW]}},
        "a word by name": {settings: {"eos_token": "<e>"}},
        "a shown token by name": {settings: {"eos_token": "<seen>"}},
        "a shown token by name and id": {
            settings: {"eos_token": "<seen>", "added_tokens_decoder": {str(size - 1): token("<seen>", special=False)}}
        },
        "a token as an object": {
            settings: {"eos_token": {"__type": "AddedToken", "content": NEW, "lstrip": True, "special": True}}
        },
        "empty names": {settings: {"bos_token": "", "eos_token": ""}},
        "split": {settings: NAMED | {"split_special_tokens": True}},
        "clean up": {settings: NAMED | {"clean_up_tokenization_spaces": True}},
        "begin and end": {settings: NAMED | {"add_bos_token": True, "add_eos_token": True}},
        "ids of the settings": {settings: NAMED | {"eos_token_id": 3, "pad_token_id": 4}},
        "no class": {settings: NAMED | {"tokenizer_class": None}},
    }


def write(directory: Path, backend: tokenizers.Tokenizer, files: dict[str, Any]) -> None:
    backend.save(str(directory / "tokenizer.json"))
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.parametrize("case", cases(0))
def test_declared_tokens_are_those_of_transformers(kind: str, case: str, tmp_path: Path) -> None:
    backend = BACKENDS[kind]()
    size = backend.get_vocab_size(with_added_tokens=True)
    if kind == "SentencePiece" and "<seen>" in json.dumps(cases(size)[case]):
        pytest.skip("this vocabulary has no such token")
    write(tmp_path, backend, cases(size)[case])
    theirs, ours = AutoTokenizer.from_pretrained(str(tmp_path)), Tokenizer.from_directory(tmp_path)

    ids = theirs(TEXT)["input_ids"]
    assert ours.encode(TEXT) == ids
    assert ours.encode(TEXT, special=AddSpecial.NO) == theirs(TEXT, add_special_tokens=False)["input_ids"]
    for skips in (True, False):
        assert ours.decode(ids, skip_special=skips) == theirs.decode(ids, skip_special_tokens=skips)
    shown = {token_id for token_id in range(len(theirs)) if theirs.decode([token_id], skip_special_tokens=True)}
    written = {token_id for token_id in range(len(theirs)) if theirs.decode([token_id], skip_special_tokens=False)}
    assert written - shown == ours.special_ids
    assert dict(ours.named_tokens) == theirs.special_tokens_map
    eos_id = None if not theirs.eos_token else theirs.eos_token_id
    assert ours.eos_token_ids == (frozenset() if eos_id is None else {eos_id})
    assert ours.vocab_size == len(theirs)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["GPT2Tokenizer", "GPT2TokenizerFast", "Qwen2Tokenizer", "PreTrainedTokenizerFast", None])
@pytest.mark.parametrize("model_type", [None, "gpt2", "qwen2", "qwen3", "llama", "phi3", "olmo2"])
@pytest.mark.parametrize("wanted", [True, False])
def test_a_space_is_put_before_a_text_where_transformers_puts_one(
    kind: str | None, model_type: str | None, wanted: bool, tmp_path: Path
) -> None:
    settings = NAMED | {"tokenizer_class": kind, "add_prefix_space": wanted}
    files: dict[str, Any] = {"tokenizer_config.json": settings}
    write(
        tmp_path, BACKENDS["byte level"](), files if model_type is None else files | {"config.json": {"model_type": model_type}}
    )
    theirs, ours = AutoTokenizer.from_pretrained(str(tmp_path)), Tokenizer.from_directory(tmp_path)
    assert ours.encode("ab c", special=AddSpecial.NO) == theirs("ab c", add_special_tokens=False)["input_ids"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("scheme", ["Prepend", "always", "first", "never"])
@pytest.mark.parametrize("wanted", [True, False])
def test_llamas_tokenizers_follow_add_prefix_space_too(scheme: str, wanted: bool, tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer.from_str(tiny.sentencepiece_backend().to_str())
    if scheme != "Prepend":
        backend.normalizer = None
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    write(tmp_path, backend, {"tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": wanted}})
    theirs, ours = AutoTokenizer.from_pretrained(str(tmp_path)), Tokenizer.from_directory(tmp_path)
    ids = theirs("Paris is", add_special_tokens=False)["input_ids"]
    assert ours.encode("Paris is", special=AddSpecial.NO) == ids
    assert ours.decode(ids) == theirs.decode(ids) == "Paris is"


CLASS_TOKENS = ("<|endoftext|>", "<s>", "</s>", "<unk>", "<bos>", "<eos>", "<pad>", "<mask>")
SAID: dict[str, dict[str, Any]] = {
    "nothing": {},
    "another end": {"eos_token": tiny.EOS},
    "no end": {"eos_token": None, "bos_token": None},
    "ids": {"eos_token": tiny.EOS, "added_tokens_decoder": ...},
}
CLASSES = [None, "GPT2TokenizerFast", "Qwen2Tokenizer", "LlamaTokenizer", "GemmaTokenizer", "TokenizersBackend"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize(
    "kind", [None, "GPT2TokenizerFast", "Qwen2Tokenizer", "LlamaTokenizer", "GemmaTokenizer", "TokenizersBackend"]
)
@pytest.mark.parametrize("model_type", ["gpt2", "qwen2", "qwen3", "llama", "gemma3_text", "olmo2"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_tokens_that_no_file_names_are_those_of_the_class(
    backend: str, model_type: str, kind: str | None, said: str, tmp_path: Path
) -> None:
    with_tokens = tokenizers.Tokenizer.from_str(BACKENDS[backend]().to_str())
    with_tokens.add_special_tokens([AddedToken(text, normalized=False) for text in CLASS_TOKENS])
    settings = SAID[said] | ({"tokenizer_class": kind} if kind else {})
    if "added_tokens_decoder" in settings:
        added = with_tokens.get_added_tokens_decoder()
        settings["added_tokens_decoder"] = {str(i): token(added[i].content, special=added[i].special) for i in added}
    write(tmp_path, with_tokens, {"tokenizer_config.json": settings, "config.json": {"model_type": model_type}})
    theirs, ours = AutoTokenizer.from_pretrained(str(tmp_path)), Tokenizer.from_directory(tmp_path)
    assert dict(ours.named_tokens) == theirs.special_tokens_map
    assert ours.eos_token_ids == (frozenset() if theirs.eos_token is None else {theirs.eos_token_id})


def test_a_token_of_the_class_that_the_vocabulary_lacks_is_not_added(tmp_path: Path) -> None:
    backend = BACKENDS["byte level"]()
    write(tmp_path, backend, {"tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer"}})
    tokenizer = Tokenizer.from_directory(tmp_path)
    assert (dict(tokenizer.named_tokens), tokenizer.vocab_size) == ({}, backend.get_vocab_size())


@cache
def large_backend(splitter: str) -> str:
    backend = BACKENDS["byte level"]()
    words = sorted(backend.get_vocab(with_added_tokens=False).items(), key=lambda item: item[1])
    vocab = dict(words) | {f"word {number}": len(words) + number for number in range(100_001)}
    large = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[("<", "e"), ("<e", ">"), ("<", "f"), ("<f", ">")]))
    old = pre_tokenizers.Split(tokenizers.Regex(r"\s"), behavior="isolated")
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    large.pre_tokenizer = {"sequence": pre_tokenizers.Sequence([old, bytes_only]), "bytes": bytes_only}[splitter]
    large.decoder = decoders.ByteLevel()
    return str(large.to_str())


OLD_MISTRAL = {"model_type": "mistral", "transformers_version": "4.57.1"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("splitter", "config"),
    [
        ("sequence", OLD_MISTRAL),
        ("bytes", OLD_MISTRAL),
        ("sequence", OLD_MISTRAL | {"transformers_version": "5.0.0"}),
        ("sequence", OLD_MISTRAL | {"transformers_version": "5.0.0rc1"}),
        ("sequence", OLD_MISTRAL | {"model_type": "llama"}),
    ],
    ids=str,
)
def test_mistrals_rule_for_splitting_is_repaired_where_transformers_repairs_it(
    splitter: str, config: dict[str, str], tmp_path: Path
) -> None:
    backend = tokenizers.Tokenizer.from_str(large_backend(splitter))
    settings = {"tokenizer_class": "TokenizersBackend", "fix_mistral_regex": True}
    write(tmp_path, backend, {"tokenizer_config.json": settings, "config.json": config})
    theirs, ours = AutoTokenizer.from_pretrained(str(tmp_path)), Tokenizer.from_directory(tmp_path)
    split = (each.pre_tokenizer.pre_tokenize_str("It's 123<e>") for each in (theirs.backend_tokenizer, ours._backend))
    assert next(split) == next(split)
    assert ours.encode(TEXT) == theirs(TEXT)["input_ids"]
