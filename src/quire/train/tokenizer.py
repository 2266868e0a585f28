"""A tokenizer for a model trained from scratch: byte-level BPE that never merges digits, Han characters or runs of capitals.

    text     "Add 12 to QXKZ in Paris"
    words    "Add" " " "1" "2" " to" " " "Q" "X" "K" "Z" " in" " Paris"      merges never cross a boundary

A model that must copy, reverse or count characters sees each of them as one token, the same one everywhere; Chinese, which has
no spaces, would otherwise be cut differently in every sentence. Any UTF-8 text can be encoded, because all 256 bytes are tokens.
Byte-level BPE is that of GPT-2 (Radford et al. 2019).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from quire.errors import ConfigError, QuireError, is_failure
from quire.models.families.sizes import MAX_VOCAB

END, SYSTEM, USER, ASSISTANT = "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
SPECIAL_TOKENS = (END, SYSTEM, USER, ASSISTANT)
"""In the order of their ids, from 0. `END` closes messages and documents, and serves as padding."""

MIN_VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role not in ("system", "user", "assistant") -%}
{{- raise_exception("This model knows the roles system, user and assistant.") -}}
{%- endif -%}
{{- "<|" + message.role + "|>" + message.content + "<|end|>" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- "<|assistant|>" -}}
{%- endif -%}
"""

_SINGLE = r"\p{Han}|\p{Lu}(?=\p{Lu})|(?<=\p{Lu})\p{Lu}"
_MIN_PAIR_COUNT = 2  # merging a pair that occurs once saves nothing elsewhere


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> tokenizers.Tokenizer:
    """Returns a tokenizer of at most `vocab_size` tokens; equal texts in equal order give equal tokens.

    It is smaller if too few pairs repeat in the texts. Raises ConfigError if `vocab_size` is below
    `MIN_VOCAB_SIZE` or above `MAX_VOCAB`, if there is no text, or if a text is not valid Unicode.
    """
    check_vocab_size(vocab_size)
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(_SINGLE), behavior="isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=_MIN_PAIR_COUNT,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    try:
        tokenizer.train_from_iterator(_checked(texts), trainer)
    except BaseException as error:  # the Rust library raises plain Exception, and panics
        if isinstance(error, QuireError) or not is_failure(error):
            raise
        raise ConfigError(
            "no tokenizer can be trained on these texts",
            given=f"{type(error).__name__}: {error}"[:200],
            next_step="Choose a smaller vocabulary, or other texts.",
        ) from error
    return tokenizer


def check_vocab_size(vocab_size: int) -> None:
    """Raises ConfigError for a vocabulary that cannot hold all bytes, or that exceeds the limit."""
    if vocab_size < MIN_VOCAB_SIZE:
        raise ConfigError(
            "the vocabulary is too small for the bytes and the special tokens",
            given=vocab_size,
            limit=f"at least {MIN_VOCAB_SIZE}",
            next_step="Choose a larger vocabulary.",
        )
    if vocab_size > MAX_VOCAB:
        raise ConfigError(
            "the vocabulary is larger than the limit",
            given=vocab_size,
            limit=f"at most {MAX_VOCAB}",
            next_step="Choose a smaller vocabulary; 4096 to 65536 tokens suit most data.",
        )


def save_tokenizer(tokenizer: tokenizers.Tokenizer, directory: Path, max_context: int) -> None:
    """Writes tokenizer.json, tokenizer_config.json and chat_template.jinja, as `transformers` and Quire read them."""
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": END,
        "model_max_length": max_context,
        "clean_up_tokenization_spaces": False,
    }
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def _checked(texts: Iterable[str]) -> Iterator[str]:
    """Yields the texts that are not blank; raises ConfigError if there are none, or if one cannot be written as UTF-8."""
    is_empty = True
    for text_idx, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(
                "a training text is not valid Unicode",
                given=f"a lone surrogate at character {error.start} of text {text_idx}",
                next_step="Write the texts as UTF-8.",
            ) from error
        if text.strip():
            is_empty = False
            yield text
    if is_empty:
        raise ConfigError("there is no text to train a tokenizer on", next_step="Give at least one text that is not blank.")
