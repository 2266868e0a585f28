"""Text to token ids and back, from a model directory's `tokenizer.json` or the metadata of a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from itertools import takewhile
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import tokenizers

from quire.errors import is_failure
from quire.models.gguf.container import GgufFile, open_gguf_file
from quire.models.gguf.splits import is_gguf
from quire.text.added_tokens import literal_bytes, literal_twin, unknown_id
from quire.text.gguf.tokenizer import load_gguf_backend
from quire.text.token_bytes import TokenBytes, token_bytes_of
from quire.text.token_span import max_bytes_per_token
from quire.text.tokenizer_backend import backend_error, load_backend
from quire.text.tokenizer_files import TokenizerFiles
from quire.text.tokenizer_inputs import listed, require_member, require_text, require_texts, token_id_error
from quire.text.vocabulary import Vocabulary

_ANCHORS = ("\n", "a", ".")
_CONTEXT = "word"


class AddSpecial(Enum):
    """Whether the tokenizer adds the special tokens its post-processor knows, such as the beginning of text."""

    YES = "yes"
    NO = "no"


class AddedSpan(NamedTuple):
    """An added token in a text: characters [start, end), with the white space that it takes along."""

    start: int
    end: int
    token_id: int


class Tokenizer:
    """A `tokenizers` tokenizer with the operations of an engine. Immutable, safe to share between threads.

    Truncation and padding that a tokenizer.json may carry are switched off: a prompt is never shortened silently.
    """

    __slots__ = (
        "_backend",
        "_literals",
        "_special_ids",
        "_token_bytes",
        "_twin",
        "_vocabulary",
        "added_tokens",
        "chat_template",
        "control_tokens",
        "eos_token_ids",
        "named_tokens",
        "vocab_size",
        "whole_texts",
    )

    def __init__(self, backend: tokenizers.Tokenizer, files: TokenizerFiles) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._twin: tuple[str, Tokenizer] | None = None
        self._token_bytes: TokenBytes | None = token_bytes_of(backend.decoder)
        self._literals = {} if self._token_bytes is None else literal_bytes(backend, self._token_bytes)
        self.added_tokens: Mapping[int, tokenizers.AddedToken] = MappingProxyType(backend.get_added_tokens_decoder())
        self._special_ids = frozenset(token_id for token_id, token in self.added_tokens.items() if token.special)
        eos_id = backend.token_to_id(files.declared.names.get("eos_token", ""))
        self.vocab_size: int = _vocab_size(backend) if files.vocab_size is None else files.vocab_size
        self.eos_token_ids: frozenset[int] = files.eos_ids | (frozenset() if eos_id is None else {eos_id})
        self.named_tokens: Mapping[str, str] = files.declared.names
        self.chat_template: str | Mapping[str, str] | None = files.chat_template
        self.control_tokens: frozenset[str] = files.control_tokens
        self._vocabulary: Vocabulary | None = None
        self.whole_texts: dict[int, str] = {}  # of tokens that were seen to be whole characters; a cache that readers fill

    @classmethod
    def from_directory(cls, directory: Path) -> Tokenizer:
        """Loads tokenizer.json and the files next to it; raises TokenizerError if one is missing or damaged."""
        backend, files = load_backend(directory)
        return cls(backend, files)

    @classmethod
    def from_model(cls, path: Path) -> Tokenizer:
        """Loads the tokenizer of a model directory or of a GGUF file; raises ModelError or one of its kinds."""
        return cls.from_gguf(open_gguf_file(path)) if is_gguf(path) else cls.from_directory(path)

    @classmethod
    def from_gguf(cls, file: GgufFile) -> Tokenizer:
        """Loads the tokenizer in the metadata of an opened GGUF file; raises ModelError or one of its kinds."""
        return cls(*load_gguf_backend(file))

    @property
    def bos_token(self) -> str | None:
        return self.named_tokens.get("bos_token")

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that decoding may skip: control tokens, not text."""
        return self._special_ids

    @property
    def control_ids(self) -> frozenset[int]:
        """Special ids without the unknown token."""
        return self._special_ids - {unknown_id(self._backend)}

    @property
    def finds_in_normalized_text(self) -> bool:
        """Whether special tokens may be written in other ways than their text."""
        special = (self.added_tokens[token_id] for token_id in self._special_ids)
        return self._backend.normalizer is not None and any(token.normalized for token in special)

    @property
    def token_bytes(self) -> TokenBytes | None:
        """How tokens become bytes, or None if that depends on their neighbors."""
        return self._token_bytes

    @property
    def max_bytes_per_token(self) -> int | None:
        """The most bytes of a text that one token stands for, None where there is no such number; counted at every call."""
        return max_bytes_per_token(self._backend, self._token_bytes)

    def encode(self, text: str, *, special: AddSpecial = AddSpecial.YES) -> list[int]:
        """Returns token ids; special tokens written out in `text` become their ids.

        Raises RequestError unless the value is a text without lone surrogates.
        """
        return list(self.encoding(text, special=special).ids)

    def encoding(self, text: str, *, special: AddSpecial = AddSpecial.YES) -> tokenizers.Encoding:
        """Returns what `encode` returns, with the characters that each token covers."""
        require_text(text)
        require_member("special", special, AddSpecial)
        try:
            return self._backend.encode(text, add_special_tokens=special is AddSpecial.YES)
        except BaseException as error:
            if not is_failure(error):
                raise
            raise backend_error("encode the text", error) from error

    def encode_batch(self, texts: Sequence[str]) -> list[tokenizers.Encoding]:
        """Returns for each text what `encoding` returns without special tokens, in several threads."""
        try:
            return list(self._backend.encode_batch(texts, add_special_tokens=False))
        except BaseException as error:
            if not is_failure(error):
                raise
            require_texts(texts)
            raise backend_error("encode the texts", error) from error

    def with_special(self, encoding: tokenizers.Encoding) -> tokenizers.Encoding:
        """Returns an encoding without special tokens with those that `encode` adds."""
        return self._backend.post_process(encoding)

    def encode_continuation(self, text: str) -> list[int]:
        """Returns token ids of text that follows other text, without the space some tokenizers put before a text's start.

        The text is encoded behind an anchor whose own tokens stay apart, and the anchor's tokens are cut off.
        """
        plain = self.encode(text, special=AddSpecial.NO)
        if self._begins(plain, text):
            return plain
        for anchor in _ANCHORS:
            anchor_ids = self.encode(anchor, special=AddSpecial.NO)
            ids = self.encode(anchor + text, special=AddSpecial.NO)
            rest = ids[len(anchor_ids) :]
            if ids[: len(anchor_ids)] == anchor_ids and self._begins(rest, text):
                return rest
        return plain

    def decode(self, token_ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Returns the text of a whole token sequence, as `tokenizers` decodes it, but added tokens as they are written.

        Raises RequestError unless the value is a sequence of token ids.
        """
        ids = token_ids if isinstance(token_ids, (list, tuple)) else listed(token_ids)
        try:
            if not self._literals.keys().isdisjoint(ids):
                return self._decode_bytes([i for i in ids if not (skip_special and i in self._special_ids)])
            text: str = self._backend.decode(list(ids), skip_special_tokens=skip_special)
        except BaseException as error:
            if not is_failure(error):
                raise
            listed(ids)
            raise backend_error("decode tokens", error) from error
        return text

    def token_text(self, token_id: int) -> str:
        """Returns one token as text, with its leading space; bytes that are not a whole character become U+FFFD."""
        content = self.bytes_of(token_id)
        return self.decode([token_id], skip_special=False) if content is None else content.decode(errors="replace")

    def bytes_of(self, token_id: int) -> bytes | None:
        """Returns the bytes that a token adds to a text, none for an unknown id; None if they depend on its neighbors."""
        if self._token_bytes is None:
            return None
        try:
            token = self._backend.id_to_token(token_id)
        except (TypeError, OverflowError) as error:
            raise token_id_error(token_id) from error
        return b"" if token is None else self._literals.get(token_id) or self._token_bytes.piece(token)

    def id_of(self, token: str) -> int | None:
        """Returns the id of a token as the vocabulary writes it, or None."""
        require_text(token)
        token_id: int | None = self._backend.token_to_id(token)
        return token_id

    def ids_by_token(self) -> dict[str, int]:
        """Returns the whole vocabulary, a large dictionary that is built on every call."""
        return dict(self._backend.get_vocab(with_added_tokens=True))

    @property
    def vocabulary(self) -> Vocabulary:
        """The bytes of all tokens, for searching; built at the first use, in half a second for 150,000 tokens.

        Where a token's bytes depend on its neighbors, they are those that it adds behind an ordinary word.
        """
        if self._vocabulary is None:
            context = self.encode(_CONTEXT, special=AddSpecial.NO)
            self._vocabulary = Vocabulary([self._bytes_behind(context, token_id) for token_id in range(self.vocab_size)])
        return self._vocabulary

    def _bytes_behind(self, context: Sequence[int], token_id: int) -> bytes:
        content = self.bytes_of(token_id)
        if content is not None:
            return content
        before = self.decode(context, skip_special=False)
        return self.decode([*context, token_id], skip_special=False).removeprefix(before).encode()

    def added_spans(self, text: str) -> list[AddedSpan]:
        """Returns the added tokens that the text writes out, in their order."""
        encoding = self.encoding(text, special=AddSpecial.NO)
        spans = [AddedSpan(start, end, token_id) for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)]
        return [span for span in spans if self._is_written(span, text)]

    def _is_written(self, span: AddedSpan, text: str) -> bool:
        """Whether a token represents its own text; the unknown token represents other text too."""
        token = self.added_tokens.get(span.token_id)
        return token is not None and (token.normalized or token.content in text[span.start : span.end])

    def literal_twin(self, marks: str) -> Tokenizer:
        """Returns a tokenizer that encodes added tokens as ordinary text, and each character of `marks` as a token.

        The last one is kept, since it takes as long to make as this one took to read.
        """
        if self._twin is None or self._twin[0] != marks:
            files = TokenizerFiles(eos_ids=frozenset(), chat_template=None)
            twin = Tokenizer(literal_twin(self._backend, marks), files)
            twin._special_ids |= {token_id for mark in marks if (token_id := twin.id_of(mark)) is not None}
            self._twin = marks, twin
        return self._twin[1]

    def _decode_bytes(self, token_ids: Sequence[int]) -> str:
        text = b"".join(self.bytes_of(token_id) or b"" for token_id in token_ids).decode(errors="replace")
        num_leading = self._token_bytes.num_leading_spaces if self._token_bytes is not None else 0
        return text[:num_leading].lstrip(" ") + text[num_leading:]

    def _begins(self, token_ids: Sequence[int], text: str) -> bool:
        """Returns whether the tokens up to the first special one are how `text` begins, with nothing before it."""
        plain_ids = takewhile(lambda token_id: token_id not in self._special_ids, token_ids)
        pieces = [self.bytes_of(token_id) for token_id in plain_ids]
        known = [piece for piece in pieces if piece is not None]
        return len(known) < len(pieces) or text.encode().startswith(b"".join(known))


def _vocab_size(backend: tokenizers.Tokenizer) -> int:
    return max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
