"""Tokens that the files next to tokenizer.json declare, and how they are added to a tokenizer.

    tokenizer_config.json     added_tokens_decoder {"258": {"content": "<|im_end|>", "special": true}}    token and id
    added_tokens.json         {"<|im_end|>": 258}                                                       token and id
    tokenizer_config.json,    "eos_token": "<|im_end|>", "image_token": ...                             named tokens
    special_tokens_map.json   additional_special_tokens, extra_special_tokens [...] or {"name": ...}    further special ones

As in transformers: where there is an added_tokens_decoder, the two smaller files are not read; without it
special_tokens_map.json comes before tokenizer_config.json, nulls included. A declared token changes the flags of one that
tokenizer.json holds, and is added where it is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import tokenizers
from tokenizers import AddedToken

from quire.errors import TokenizerError
from quire.text.token_bytes import TokenBytes

_STANDARD = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_MAX_TOKEN_ID = 2**31 - 1
_MAX_ID_DIGITS = len(str(_MAX_TOKEN_ID))


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredTokens:
    """What the files declare. `named` holds bos_token and the other named tokens by name, as the file writes them."""

    by_id: Mapping[int, AddedToken] = field(default_factory=dict)
    named: Mapping[str, AddedToken] = field(default_factory=dict)
    assumed: Mapping[str, AddedToken] = field(default_factory=dict)
    """Named tokens that no file names and the tokenizer's class has."""
    extra: tuple[AddedToken, ...] = ()
    renews_flags: bool = True
    """Whether tokens of tokenizer.json become special by being named: not where an added_tokens_decoder says what they are."""

    def settled(self, backend: tokenizers.Tokenizer) -> DeclaredTokens:
        """Returns the same with the assumed tokens that the vocabulary holds among the named ones: no others are added to it."""
        found = {name: token for name, token in self.assumed.items() if backend.token_to_id(token.content) is not None}
        return replace(self, named={**found, **self.named}, assumed={})

    @property
    def names(self) -> Mapping[str, str]:
        """The texts of the named tokens, as chat templates read them."""
        return MappingProxyType({name: token.content for name, token in self.named.items()})


NOTHING_DECLARED = DeclaredTokens()


def read_declared(
    settings: Mapping[str, Any], token_map: Mapping[str, Any], added: Mapping[str, Any], assumed: Mapping[str, str]
) -> DeclaredTokens:
    """Returns what tokenizer_config.json, special_tokens_map.json and added_tokens.json declare; raises TokenizerError.

    `assumed` holds the texts of named tokens that no file has to name.
    """
    if settings.get("added_tokens_decoder") is not None:
        by_id = dict(_tokens_by_id(settings["added_tokens_decoder"]))
        extra = _extra(settings, "extra_special_tokens") or _extra(settings, "additional_special_tokens")
        named, absent = _named(settings, by_id), _absent(assumed, settings)
        return DeclaredTokens(by_id=by_id, named=named, assumed=absent, extra=extra, renews_flags=False)
    merged = {**settings, **token_map}
    extra = _extra(settings, "extra_special_tokens") or _extra(merged, "additional_special_tokens")
    extra += _extra(token_map, "extra_special_tokens")
    if isinstance(settings.get("extra_special_tokens"), Mapping):
        merged = {**merged, "extra_special_tokens": settings["extra_special_tokens"]}
    special = {token.content for token in (*_named(merged, {}).values(), *extra)}
    by_id = dict(_added_by_id(added, special))
    return DeclaredTokens(by_id=by_id, named=_named(merged, by_id), assumed=_absent(assumed, merged), extra=extra)


def declare(backend: tokenizers.Tokenizer, declared: DeclaredTokens) -> None:
    """Adds the declared tokens to a tokenizer; raises TokenizerError where a token cannot have the id that a file gives it."""
    present = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    named = {token.content for token in declared.named.values()}
    special = named | {content for content, token in present.items() if token.special}
    tokens = [declared.by_id[token_id] for token_id in sorted(declared.by_id)]
    if declared.renews_flags:
        tokens += [token for content, token in present.items() if content in named and not token.special]
    known = present.keys() | {token.content for token in tokens}
    tokens += [token for token in (*declared.named.values(), *declared.extra) if token.content not in known]
    missing = [token_id for token_id, token in declared.by_id.items() if backend.token_to_id(token.content) is None]
    backend.add_tokens([_with_flag(token, token.special or token.content in special) for token in tokens if token.content])
    for token_id in missing:
        _require_id(backend, declared.by_id[token_id].content, token_id)


def literal_bytes(backend: tokenizers.Tokenizer, rule: TokenBytes) -> dict[int, bytes]:
    """Returns the bytes of added tokens if the rule for other tokens would misread them: their bytes are their own text."""
    added = {token_id: token for token_id, token in backend.get_added_tokens_decoder().items() if token.content}
    if not rule.is_byte_level:
        added = {token_id: token for token_id, token in added.items() if not _is_piece(token, backend)}
    literals = {token_id: token.content.encode() for token_id, token in added.items()}
    return {token_id: content for token_id, content in literals.items() if rule.piece(added[token_id].content) != content}


def literal_twin(backend: tokenizers.Tokenizer, marks: str) -> tokenizers.Tokenizer:
    """Returns a copy that encodes the text of added tokens as ordinary text, and each character of `marks` as a token."""
    twin = tokenizers.Tokenizer.from_str(backend.to_str())
    twin.add_tokens([_with_flag(token, True) for token in twin.get_added_tokens_decoder().values()])
    twin.add_tokens([AddedToken(mark, normalized=False) for mark in marks])
    twin.encode_special_tokens = True
    return twin


def unknown_id(backend: tokenizers.Tokenizer) -> int | None:
    """Returns the id of the unknown token, or None."""
    found: int | None = getattr(backend.model, "unk_id", None)
    token = getattr(backend.model, "unk_token", None)
    return found if token is None else backend.token_to_id(token)


def _is_piece(token: AddedToken, backend: tokenizers.Tokenizer) -> bool:
    """Whether an added token is written as SentencePiece's pieces are: one of those (Gemma's runs of U+2581), or found so."""
    is_in_model = backend.model.token_to_id(token.content) is not None
    return is_in_model or (token.normalized and backend.normalizer is not None)


def _with_flag(token: AddedToken, special: bool) -> AddedToken:
    flags = {flag: getattr(token, flag) for flag in _FLAGS}
    return AddedToken(token.content, **{**flags, "special": special})


def _require_id(backend: tokenizers.Tokenizer, content: str, token_id: int) -> None:
    found = backend.token_to_id(content)
    if content and found != token_id:
        raise TokenizerError(
            "the tokenizer's files declare a token whose id does not follow tokenizer.json",
            given=f"{content!r} as {token_id}",
            limit=f"the next free id is {found}",
            next_step="Export the tokenizer again, so that tokenizer.json holds all its tokens.",
        )


def _tokens_by_id(value: object) -> Iterator[tuple[int, AddedToken]]:
    if not isinstance(value, Mapping):
        raise _damaged("added_tokens_decoder", value)
    for key, token in value.items():
        is_id = key.isascii() and key.isdigit() and len(key) <= _MAX_ID_DIGITS and int(key) <= _MAX_TOKEN_ID
        if not is_id or not isinstance(token, Mapping):
            raise _damaged("added_tokens_decoder", {key: token})
        yield int(key), _token("added_tokens_decoder", token, special=False)


def _added_by_id(added: Mapping[str, Any], special: set[str]) -> Iterator[tuple[int, AddedToken]]:
    for content, token_id in added.items():
        if isinstance(token_id, bool) or not isinstance(token_id, int) or not 0 <= token_id <= _MAX_TOKEN_ID:
            raise _damaged("added_tokens.json", {content: token_id})
        yield token_id, AddedToken(content, normalized=content not in special, special=content in special)


def _named(settings: Mapping[str, Any], by_id: Mapping[int, AddedToken]) -> dict[str, AddedToken]:
    """Returns the named tokens, the standard ones first; a token that is declared with its id keeps those flags."""
    flags = {token.content: token for token in by_id.values()}
    fields = {name: settings.get(name) for name in _STANDARD}
    fields |= {name: value for name, value in settings.items() if name.endswith("_token") and isinstance(value, (str, Mapping))}
    for dictionary in (settings.get("model_specific_special_tokens"), settings.get("extra_special_tokens")):
        fields |= dictionary if isinstance(dictionary, Mapping) else {}
    tokens = {name: _token(name, value, special=True) for name, value in fields.items() if value is not None}
    return {name: flags.get(token.content, token) for name, token in tokens.items()}


def _absent(assumed: Mapping[str, str], settings: Mapping[str, Any]) -> dict[str, AddedToken]:
    """Returns the assumed tokens whose names are not among the settings; null is a setting."""
    return {name: AddedToken(text, special=True) for name, text in assumed.items() if name not in settings}


def _extra(settings: Mapping[str, Any], name: str) -> tuple[AddedToken, ...]:
    value = settings.get(name) or []
    if isinstance(value, Mapping):
        return ()
    if not isinstance(value, list):
        raise _damaged(name, value)
    return tuple(_token(name, item, special=True) for item in value)


def _token(name: str, value: object, *, special: bool) -> AddedToken:
    if isinstance(value, str):
        return AddedToken(value, special=special)
    if not isinstance(value, Mapping) or not isinstance(value.get("content"), str):
        raise _damaged(name, value)
    flags = {flag: value[flag] for flag in _FLAGS if flag in value}
    if not all(isinstance(flag, bool) for flag in flags.values()):
        raise _damaged(name, value)
    return AddedToken(value["content"], **{"special": special, **flags})


def _damaged(name: str, value: object) -> TokenizerError:
    return TokenizerError(
        f"{name} of the tokenizer's files is damaged", given=repr(value)[:80], next_step="Download or export the files again."
    )
