"""The texts on which formats are compared by default: one for the bundled model, which knows chats alone, and one for all others.

`held_out.txt` holds conversations that the bundled model never saw, in its chat format: two long ones in English and two in
Chinese, of the exam's phrasings and values, written by `scripts/bundled/held_out.py`. `prose.txt` was written for this purpose
and published nowhere else: stories, explanations, a letter, minutes and a little code, in English.
"""

from __future__ import annotations

from pathlib import Path

from quire.bench.quality import Text
from quire.text.tokenizer import AddSpecial, Tokenizer

FILE = Path(__file__).with_name("held_out.txt")
PROSE = Path(__file__).with_name("prose.txt")
_ANSWER, _END = "<|assistant|>", "<|end|>"


def held_out_texts(tokenizer: Tokenizer) -> tuple[Text, ...]:
    """Returns the conversations, one per line of the file; answers are what the model learned, `tokenizer` is the model's."""
    return tuple(_text(line, tokenizer) for line in FILE.read_text(encoding="utf-8").splitlines())


def plain_text(text: str, tokenizer: Tokenizer) -> Text:
    """Returns a text of which nothing is an answer, without the tokens that a prompt begins with."""
    token_ids = tuple(tokenizer.encode(text, special=AddSpecial.NO))
    return Text(token_ids=token_ids, is_answer=(False,) * len(token_ids))


def _text(line: str, tokenizer: Tokenizer) -> Text:
    [answer_id], [end_id] = tokenizer.encode(_ANSWER), tokenizer.encode(_END)
    token_ids = tuple(tokenizer.encode(line))
    is_answer: list[bool] = []
    is_inside = False
    for token_id in token_ids:
        is_answer.append(is_inside)
        is_inside = token_id == answer_id or (is_inside and token_id != end_id)
    return Text(token_ids=token_ids, is_answer=tuple(is_answer))
