"""Text to token ids and back, from a model directory's `tokenizer.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from itertools import takewhile
from pathlib import Path
from types import MappingProxyType

import tokenizers

from quire.errors import RequestError
from quire.text.token_bytes import TokenBytes, token_bytes_of
from quire.text.tokenizer_files import MAX_TOKENIZER_BYTES, TokenizerFiles, damaged, read_bytes, read_tokenizer_files
from quire.text.vocabulary import Vocabulary

_ANCHORS = ("\n", "a", ".")
_CONTEXT = "word"


class AddSpecial(Enum):
    """Whether the tokenizer adds the special tokens its post-processor knows, such as the beginning of text."""

    YES = "yes"
    NO = "no"


class Tokenizer:
    """A `tokenizers` tokenizer with what an engine asks of it. Immutable, safe to share between threads.

    Truncation and padding that a tokenizer.json may carry are switched off: a prompt is never shortened silently.
    """

    __slots__ = (
        "_backend",
        "_special_ids",
        "_token_bytes",
        "_vocabulary",
        "chat_template",
        "eos_token_ids",
        "named_tokens",
        "vocab_size",
    )

    def __init__(self, backend: tokenizers.Tokenizer, files: TokenizerFiles) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._token_bytes: TokenBytes | None = token_bytes_of(backend.decoder)
        self._special_ids = frozenset(i for i, token in backend.get_added_tokens_decoder().items() if token.special)
        eos_id = backend.token_to_id(files.named_tokens.get("eos_token", ""))
        self.vocab_size: int = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.eos_token_ids: frozenset[int] = files.eos_ids | (frozenset() if eos_id is None else {eos_id})
        self.named_tokens: Mapping[str, str] = MappingProxyType(dict(files.named_tokens))
        self.chat_template: str | Mapping[str, str] | None = files.chat_template
        self._vocabulary: Vocabulary | None = None

    @classmethod
    def from_directory(cls, directory: Path) -> Tokenizer:
        """Loads tokenizer.json and the files beside it; raises TokenizerError on a missing or damaged one."""
        content = read_bytes(directory / "tokenizer.json", MAX_TOKENIZER_BYTES)
        try:
            backend = tokenizers.Tokenizer.from_buffer(content)
        except Exception as error:  # the Rust library raises plain Exception
            raise damaged("tokenizer.json", str(error)) from error
        return cls(backend, read_tokenizer_files(directory))

    @property
    def bos_token(self) -> str | None:
        return self.named_tokens.get("bos_token")

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that decoding may skip: control tokens, not text."""
        return self._special_ids

    @property
    def token_bytes(self) -> TokenBytes | None:
        """How tokens become bytes, or None where that depends on their neighbours."""
        return self._token_bytes

    def encode(self, text: str, *, special: AddSpecial = AddSpecial.YES) -> list[int]:
        """Returns token ids; special tokens written out in `text` become their ids. Raises RequestError on lone surrogates."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError(
                "the text is not valid Unicode",
                given=f"a lone surrogate at character {error.start}",
                next_step="Send text that can be written as UTF-8.",
            ) from error
        ids: list[int] = self._backend.encode(text, add_special_tokens=special is AddSpecial.YES).ids
        return ids

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
        """Returns the text of a whole token sequence, exactly as `tokenizers` decodes it."""
        text: str = self._backend.decode(list(token_ids), skip_special_tokens=skip_special)
        return text

    def token_text(self, token_id: int) -> str:
        """Returns one token as text, with its leading space; bytes that are no whole character become U+FFFD."""
        content = self.bytes_of(token_id)
        return self.decode([token_id], skip_special=False) if content is None else content.decode(errors="replace")

    def bytes_of(self, token_id: int) -> bytes | None:
        """Returns the bytes a token adds to a text, none for an unknown id; None where they depend on its neighbours."""
        if self._token_bytes is None:
            return None
        token = self._backend.id_to_token(token_id)
        return b"" if token is None else self._token_bytes.piece(token)

    @property
    def vocabulary(self) -> Vocabulary:
        """The bytes of all tokens, to search; made at the first use, in half a second for 150,000 tokens.

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

    def _begins(self, token_ids: Sequence[int], text: str) -> bool:
        """Tells whether the tokens up to the first special one are how `text` begins, with nothing before it."""
        plain_ids = takewhile(lambda token_id: token_id not in self._special_ids, token_ids)
        pieces = [self.bytes_of(token_id) for token_id in plain_ids]
        known = [piece for piece in pieces if piece is not None]
        return len(known) < len(pieces) or text.encode().startswith(b"".join(known))
