"""Conversations that the bundled model never saw, in its chat format: the text on which its formats are compared.

`scripts/bundled/held_out.py` wrote the file: two long chats in English and two in Chinese, of the exam's phrasings and values.
"""

from __future__ import annotations

from pathlib import Path

from quire.bench.quality import Text
from quire.text.tokenizer import Tokenizer

FILE = Path(__file__).with_name("held_out.txt")
_ANSWER, _END = "<|assistant|>", "<|end|>"


def held_out_texts(tokenizer: Tokenizer) -> tuple[Text, ...]:
    """Returns the conversations, one per line of the file; answers are what the model learned, `tokenizer` is the model's."""
    return tuple(_text(line, tokenizer) for line in FILE.read_text(encoding="utf-8").splitlines())


def _text(line: str, tokenizer: Tokenizer) -> Text:
    [answer_id], [end_id] = tokenizer.encode(_ANSWER), tokenizer.encode(_END)
    token_ids = tuple(tokenizer.encode(line))
    is_answer: list[bool] = []
    is_inside = False
    for token_id in token_ids:
        is_answer.append(is_inside)
        is_inside = token_id == answer_id or (is_inside and token_id != end_id)
    return Text(token_ids=token_ids, is_answer=tuple(is_answer))
