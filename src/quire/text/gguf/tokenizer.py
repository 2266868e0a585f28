"""Builds the tokenizer of a GGUF file, and reads what Hugging Face keeps in the files next to tokenizer.json.

tokenizer.ggml.model "gpt2"     byte-level BPE: merges, and `tokenizer.ggml.pre` names how a text is cut before
tokenizer.ggml.model "llama"    SentencePiece: scores, bytes for what no piece covers
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import numpy as np
import tokenizers
from tokenizers import AddedToken, decoders, models, processors

from quire.errors import TokenizerError, UnsupportedConfigError, is_failure
from quire.models.gguf.container import GgufFile
from quire.models.gguf.fields import Fields
from quire.text.added_tokens import DeclaredTokens
from quire.text.gguf import pieces
from quire.text.gguf.pretokenizers import PIPELINES
from quire.text.gguf.vocabulary import HARMLESS, PREFIX, GgufVocabulary, TokenType, read_merges, read_scores, read_vocabulary
from quire.text.tokenizer_files import TokenizerFiles

_MODEL, _PRE = "tokenizer.ggml.model", "tokenizer.ggml.pre"
_BYTE_LEVEL, _SENTENCEPIECE = "gpt2", "llama"
_ADD_BOS, _ADD_EOS = "tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token"
_IF_FALSE = ("tokenizer.ggml.remove_extra_whitespaces", "tokenizer.ggml.normalizer.lowercase")
_SPACE_PREFIX = "tokenizer.ggml.add_space_prefix"
_TEMPLATE = "tokenizer.chat_template"
_IN_FILE_ORDER = frozenset({"gemma3"})
"""Architectures whose scores are not the order of merging: there the order of the tokens is."""

_TAKING_SPACES = frozenset({"phi3"})
"""Architectures whose special tokens take the white space behind them along, which the metadata cannot say."""
_KEEPING_SPACES = frozenset({"<unk>", "<s>", "<|endoftext|>"})


def load_gguf_backend(file: GgufFile) -> tuple[tokenizers.Tokenizer, TokenizerFiles]:
    """Returns the tokenizer of a GGUF file; raises CheckpointError, TokenizerError or UnsupportedConfigError with the field."""
    fields = Fields(file.name, file.metadata)
    with _collection_paused():
        vocabulary = read_vocabulary(fields)
        if fields.text(_MODEL) == _SENTENCEPIECE:
            vocabulary = vocabulary.respelled(pieces.respelled)
        backend = _backend(fields, vocabulary)
    _refuse_unread(fields)
    files = TokenizerFiles(
        declared=DeclaredTokens(
            named={name: _special(vocabulary.tokens[token_id]) for name, token_id in vocabulary.named.items()}
        ),
        eos_ids=vocabulary.ends,
        chat_template=_templates(fields, [name for name in file.metadata if name.startswith(f"{_TEMPLATE}.")]),
        vocab_size=len(vocabulary.tokens),
    )
    return backend, files


@contextmanager
def _collection_paused() -> Iterator[None]:
    """Keeps Python from searching hundreds of thousands of new tuples for cycles, again and again, while the body makes them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _backend(fields: Fields, vocabulary: GgufVocabulary) -> tokenizers.Tokenizer:
    tokenizer_model = fields.text(_MODEL)
    builders = {_BYTE_LEVEL: _byte_level, _SENTENCEPIECE: _sentencepiece}
    if tokenizer_model not in builders:
        fields.refuse(_MODEL, "is not a tokenizer that Quire reads", ", ".join(builders))
    try:
        return builders[tokenizer_model](fields, vocabulary)
    except BaseException as error:  # the Rust library raises plain Exception, and panics
        if not is_failure(error) or isinstance(error, UnsupportedConfigError):
            raise
        raise TokenizerError(
            f"{fields.file_name}: the tokenizer's fields do not make a tokenizer",
            given=f"{type(error).__name__}: {error}"[:200],
            next_step="Use a file that a current converter of llama.cpp wrote.",
        ) from error


def _refuse_unread(fields: Fields) -> None:
    """Raises UnsupportedConfigError for fields of the tokenizer that nothing has read: one could change the tokens."""
    for name in _IF_FALSE:
        fields.require(name, False)
    fields.refuse_unread(PREFIX, HARMLESS)


def _byte_level(fields: Fields, vocabulary: GgufVocabulary) -> tokenizers.Tokenizer:
    name = fields.text(_PRE)
    pipeline = PIPELINES.get(name or "")
    if pipeline is None:
        fields.refuse(_PRE, "names no way of cutting texts that Quire knows", ", ".join(PIPELINES))
    fields.require(_SPACE_PREFIX, False)
    merges = read_merges(fields, len(vocabulary.tokens))
    model = models.BPE(vocab=vocabulary.ids, merges=merges, ignore_merges=pipeline.ignores_merges)
    backend = tokenizers.Tokenizer(model)
    if pipeline.normalizer is not None:
        backend.normalizer = pipeline.normalizer
    backend.pre_tokenizer = pipeline.pre_tokenizer
    backend.decoder = decoders.ByteLevel()
    _add_post_processor(backend, fields, vocabulary, adds_bos=pipeline.adds_bos)
    _add_tokens(backend, vocabulary)
    return backend


def _sentencepiece(fields: Fields, vocabulary: GgufVocabulary) -> tokenizers.Tokenizer:
    tokens = vocabulary.tokens
    ranks = [-score for score in read_scores(fields, len(tokens))]
    if fields.architecture in _IN_FILE_ORDER:
        ranks = list(map(float, range(len(tokens))))
    mergeable = np.isin(vocabulary.types, (TokenType.NORMAL, TokenType.USER_DEFINED)).tolist()
    unknown = vocabulary.named.get("unk_token")
    model = models.BPE(
        vocab=vocabulary.ids,
        merges=pieces.merges_of(tokens, ranks, mergeable),
        unk_token=None if unknown is None else tokens[unknown],
        fuse_unk=True,
        byte_fallback=True,
    )
    backend = tokenizers.Tokenizer(model)
    has_prefix = fields.flag(_SPACE_PREFIX, default=True)
    backend.normalizer = pieces.normalizer(has_prefix=has_prefix)
    backend.decoder = pieces.decoder(has_prefix=has_prefix)
    _add_post_processor(backend, fields, vocabulary, adds_bos=True)
    _add_tokens(backend, vocabulary, takes_spaces=fields.architecture in _TAKING_SPACES)
    return backend


def _add_post_processor(backend: tokenizers.Tokenizer, fields: Fields, vocabulary: GgufVocabulary, *, adds_bos: bool) -> None:
    """Makes `encode` add the first and the last token, as the file says, or else as its tokenizer model does."""
    wanted = (("bos_token", fields.flag(_ADD_BOS, adds_bos)), ("eos_token", fields.flag(_ADD_EOS, False)))
    found = {name: vocabulary.named[name] for name, is_added in wanted if is_added and name in vocabulary.named}
    if not found:
        return
    tokens = {name: vocabulary.tokens[token_id] for name, token_id in found.items()}
    first, last = ([tokens[name]] if name in tokens else [] for name, _ in wanted)
    backend.post_processor = processors.TemplateProcessing(
        single=[*first, "$A", *last],
        pair=[*first, "$A", *last, *(f"{token}:1" for token in first), "$B:1", *(f"{token}:1" for token in last)],
        special_tokens=[(tokens[name], found[name]) for name in found],
    )


def _add_tokens(backend: tokenizers.Tokenizer, vocabulary: GgufVocabulary, *, takes_spaces: bool = False) -> None:
    """Declares control tokens, which are no text, and user-defined ones, which are found whole before anything is cut."""
    named = {vocabulary.tokens[token_id] for token_id in vocabulary.named.values()}
    control = [*vocabulary.of_type(TokenType.CONTROL), *vocabulary.of_type(TokenType.UNKNOWN)]
    special = [*control, *sorted(named - set(control))]
    defined = [token for token in vocabulary.of_type(TokenType.USER_DEFINED) if token not in named]
    keeps_spaces = _KEEPING_SPACES if takes_spaces else frozenset(special)
    backend.add_special_tokens([_special(token, rstrip=token not in keeps_spaces) for token in special if token])
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in defined if token])


def _special(token: str, *, rstrip: bool = False) -> AddedToken:
    return AddedToken(token, special=True, normalized=False, rstrip=rstrip)


def _templates(fields: Fields, named: list[str]) -> str | Mapping[str, str] | None:
    """Returns the chat template, or several by name where the file holds more than one."""
    found = {"default": fields.text(_TEMPLATE)} | {name.removeprefix(f"{_TEMPLATE}."): fields.text(name) for name in named}
    templates = {name: text for name, text in found.items() if text is not None}
    return templates["default"] if templates.keys() == {"default"} else MappingProxyType(templates) if templates else None
