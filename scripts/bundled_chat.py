"""How a conversation becomes token ids: the chat template, the tokenizer's training, and which tokens are answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bundled_corpus import Speaker, Turn
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END, SYSTEM, USER, ASSISTANT = "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
VOCAB_SIZE = 2048
TEMPLATE = """\
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One training row: token ids, and for each whether the model must produce it."""

    token_ids: tuple[int, ...]
    is_answer: tuple[bool, ...]


class ChatEncoder:
    """Turns conversations into rows; equals the chat template, because special tokens split the text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = {text: tokenizer.get_vocab()[text] for text in (END, SYSTEM, USER, ASSISTANT)}

    def conversation(self, speaker: Speaker, max_tokens: int) -> Row:
        """Returns a new conversation with as many turns as fit."""
        speaker.begin()
        system = speaker.system()
        row = [] if system is None else self._message(SYSTEM, system)
        while True:
            turn = self.turn(speaker.turn())
            if len(row) + len(turn) > max_tokens and row:
                return _row(row[:max_tokens])
            row += turn

    def turn(self, turn: Turn) -> list[tuple[int, bool]]:
        """Returns (token id, is answer) of one question and its answer."""
        return self._message(USER, turn.question) + self._message(ASSISTANT, turn.answer)

    def turns(self, turns: Sequence[Turn]) -> Row:
        """Returns one row of the given turns."""
        return _row([token for turn in turns for token in self.turn(turn)])

    def statement(self, text: str) -> Row:
        """Returns plain text in which every token is to be learned."""
        token_ids = (*self._tokenizer.encode(text).ids, self._special[END])
        return Row(token_ids=token_ids, is_answer=(True,) * len(token_ids))

    def _message(self, role: str, text: str) -> list[tuple[int, bool]]:
        token_ids = [*self._tokenizer.encode(text).ids, self._special[END]]
        return [(self._special[role], False), *((token_id, role == ASSISTANT) for token_id in token_ids)]


def train_tokenizer(speaker: Speaker, num_turns: int) -> Tokenizer:
    """Returns a byte-level BPE tokenizer: any UTF-8 text can be encoded, digits stay single."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END, SYSTEM, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(speaker, num_turns), trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, directory: Path, max_context: int) -> None:
    """Writes tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": END,
        "model_max_length": max_context,
        "clean_up_tokenization_spaces": False,
    }
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (directory / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")


def _texts(speaker: Speaker, num_turns: int) -> Iterable[str]:
    for _ in range(num_turns):
        turn = speaker.turn()
        yield turn.question
        yield turn.answer


def _row(tokens: Sequence[tuple[int, bool]]) -> Row:
    return Row(token_ids=tuple(token_id for token_id, _ in tokens), is_answer=tuple(is_answer for _, is_answer in tokens))
