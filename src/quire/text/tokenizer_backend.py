"""A model directory's tokenizer as the `tokenizers` library holds it, with the settings of the files next to tokenizer.json."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import tokenizers

from quire.errors import RequestError, UnsupportedConfigError, is_failure
from quire.text.added_tokens import declare
from quire.text.mistral_regex import repair
from quire.text.prefix_space import with_prefix_space
from quire.text.tokenizer_files import MAX_TOKENIZER_BYTES, TokenizerFiles, damaged, read_bytes, read_tokenizer_files


def load_backend(directory: Path) -> tuple[tokenizers.Tokenizer, TokenizerFiles]:
    """Reads tokenizer.json and the files next to it; raises TokenizerError or UnsupportedConfigError."""
    content = read_bytes(directory / "tokenizer.json", MAX_TOKENIZER_BYTES)
    backend = _read(content)
    files = read_tokenizer_files(directory, is_byte_level=b'"ByteLevel"' in content)
    files = replace(files, declared=files.declared.settled(backend))
    if files.has_prefix_space is not None:
        backend = _read(with_prefix_space(content, files.has_prefix_space))
    _refuse_clean_up(backend, files)
    declare(backend, files.declared)
    if files.needs_mistral_regex:
        repair(backend)
    backend.encode_special_tokens = files.splits_special
    return backend, files


def backend_error(what: str, error: BaseException) -> RequestError:
    """Returns the error to raise for one of the library's, which is often no more than a text, or a panic."""
    return RequestError(
        f"the tokenizer failed to {what}",
        given=f"{type(error).__name__}: {error}"[:200],
        next_step="Check tokenizer.json, or leave out what it cannot read.",
    )


def _read(content: bytes) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_buffer(content)
    except BaseException as error:  # the Rust library raises plain Exception, and panics
        if not is_failure(error):
            raise
        raise damaged("tokenizer.json", str(error)) from error


def _refuse_clean_up(backend: tokenizers.Tokenizer, files: TokenizerFiles) -> None:
    """Raises UnsupportedConfigError if decoding should remove spaces before punctuation; for BPE the setting has no effect."""
    kind = type(backend.model).__name__
    if files.cleans_up_spaces and kind != "BPE":
        raise UnsupportedConfigError(
            "tokenizer_config.json: clean_up_tokenization_spaces changes the text of answers, which Quire does not honor",
            given=f"true, with a {kind} tokenizer",
            next_step="Set it to false, or remove it, if the text should be what tokenizer.json decodes.",
        )
