"""Tokenizers trained on a few sentences: one of every way in which tokens can stand for bytes."""

from __future__ import annotations

import json
from functools import cache

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from quire.text.added_tokens import DeclaredTokens
from quire.text.tokenizer import Tokenizer
from quire.text.tokenizer_files import TokenizerFiles

TEXTS = (
    "The capital of France is Paris. What is the capital of Japan?",
    "你好世界。日本の首都は東京です。 서울은 한국의 수도입니다.",
    "\N{GRINNING FACE}\N{PARTY POPPER} naïve café \N{FAMILY} fin\n\n\tline two",
    "<|im_start|>user\nHello there<|im_end|>\n<|im_start|>assistant\n",
)
BOS = "<|bos|>"
SPECIALS = (BOS, "<|im_start|>", "<|im_end|>")
EOS = "<|im_end|>"
UNKNOWN = "<unk>"


def byte_level_backend() -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False))
    return _with_specials(backend)


def sentencepiece_backend() -> tokenizers.Tokenizer:
    """Llama's arrangement: a space before the text, bytes for unknown characters, the first space dropped on decoding."""
    trained = tokenizers.Tokenizer(models.BPE(unk_token=UNKNOWN))
    trained.normalizer = _metaspace()
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=[UNKNOWN], limit_alphabet=60, show_progress=False)
    trained.train_from_iterator([TEXTS[0], TEXTS[3]], trainer)
    model = json.loads(trained.to_str())["model"]
    vocab = dict(model["vocab"])
    vocab |= {f"<0x{byte:02X}>": len(vocab) + byte for byte in range(256)}
    merges = [tuple(merge) for merge in model["merges"]]
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token=UNKNOWN, byte_fallback=True, fuse_unk=True))
    backend.normalizer = _metaspace()
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    return _with_specials(backend)


def word_piece_backend() -> tokenizers.Tokenizer:
    """A decoder that looks at neighbors: `##s` joins the word before it."""
    words = [UNKNOWN, "hello", "world", "##s", "##ly", ",", "do", "it"]
    backend = tokenizers.Tokenizer(models.WordPiece(vocab={word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece(cleanup=False)
    return _with_specials(backend)


@cache
def byte_level() -> Tokenizer:
    return wrapped(byte_level_backend())


@cache
def sentencepiece() -> Tokenizer:
    return wrapped(sentencepiece_backend())


@cache
def word_piece() -> Tokenizer:
    return wrapped(word_piece_backend())


def wrapped(backend: tokenizers.Tokenizer) -> Tokenizer:
    declared = DeclaredTokens(named={"bos_token": AddedToken(BOS), "eos_token": AddedToken(EOS)})
    return Tokenizer(backend, TokenizerFiles(declared=declared, eos_ids=frozenset(), chat_template=None))


def _metaspace() -> normalizers.Normalizer:
    return normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])


def _with_specials(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    bos_id = backend.token_to_id(BOS)
    backend.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, bos_id)])
    return backend
