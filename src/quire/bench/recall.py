"""Recall by distance: facts told to the bundled model, asked again after 100 to 1,900 tokens of other business.

chat       [tell 1][other][tell 2][other] ... [tell 10][other]      computed once for its ten questions
question                                                     [ask k][answer]

An answer is right if the model's most likely token is the expected one at each of its tokens: what greedy decoding writes.
Other business comes from the held-out chats, in English.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np

from quire.bench.harness import Harness, chunk_step
from quire.bench.held_out import FILE
from quire.config import KERNEL_TILE_TOKENS
from quire.text.tokenizer import Tokenizer

NUM_CHATS = 30
FACTS_PER_CHAT = 10
MAX_DISTANCE = 1_900
CONTEXT = 2_048

_CHUNK_TOKENS = 512
_OWNERS = ("my", "my teacher's", "my friend's", "my father's", "my uncle's", "my neighbour's", "Bruno's", "Oscar's")
_TOPICS = ("user name", "budget")
_USER, _ANSWER, _END = "<|user|>", "<|assistant|>", "<|end|>"


@dataclass(frozen=True, slots=True)
class Question:
    """A question and its answer behind a chat; `distance` tokens lie between the telling and the end of the question."""

    question_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    distance: int


@dataclass(frozen=True, slots=True)
class RecallChat:
    """Facts among other business, and a question for each of them."""

    token_ids: tuple[int, ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """Right answers in one KV format; `by_distance` is (tokens between telling and asking, in hundreds; right; asked)."""

    kv: str
    num_right: int
    num_asked: int
    by_distance: tuple[tuple[int, int, int], ...]


def recall_chats(tokenizer: Tokenizer, num_chats: int = NUM_CHATS) -> Iterator[RecallChat]:
    """Yields chats with their questions; always the same ones."""
    rng = np.random.default_rng(21)
    others = [tuple(tokenizer.encode(text)) for text in _other_business()]
    for _ in range(num_chats):
        yield _chat(rng, [others[index] for index in rng.permutation(len(others))], tokenizer)


def measure_recall(harness: Harness, chats: Sequence[RecallChat]) -> Recall:
    """Asks every question of every chat."""
    right: Counter[int] = Counter()
    asked: Counter[int] = Counter()
    for done, chat in enumerate(chats):
        harness.show_progress(f"Asking for facts with {harness.layout.format.value} K/V", done, len(chats))
        for start in range(0, len(chat.token_ids), _CHUNK_TOKENS):
            harness.executor.run(chunk_step(chat.token_ids[start : start + _CHUNK_TOKENS], start, harness.layout))
        for question in chat.questions:
            distance = round(question.distance, -2)
            asked[distance] += 1
            right[distance] += _is_right(harness, chat.token_ids, question)
    return Recall(
        kv=harness.layout.format.value,
        num_right=right.total(),
        num_asked=asked.total(),
        by_distance=tuple((distance, right[distance], asked[distance]) for distance in sorted(asked)),
    )


def _is_right(harness: Harness, chat_ids: tuple[int, ...], question: Question) -> bool:
    """Computes question and answer from the last tile's border on, which any KV format allows."""
    start = len(chat_ids) // KERNEL_TILE_TOKENS * KERNEL_TILE_TOKENS
    token_ids = (*chat_ids[start:], *question.question_ids, *question.answer_ids)
    harness.executor.run(chunk_step(token_ids[:-1], start, harness.layout))
    num_answer = len(question.answer_ids)
    rows = np.arange(len(token_ids) - 1 - num_answer, len(token_ids) - 1, dtype=np.int32)
    return tuple(harness.executor.argmax(rows).token_ids.tolist()) == question.answer_ids


def _chat(rng: np.random.Generator, others: list[tuple[int, ...]], tokenizer: Tokenizer) -> RecallChat:
    """Tells facts so that the first lies `MAX_DISTANCE` tokens behind the end, and the others evenly between."""
    keys = [f"{owner} {topic}" for owner in _OWNERS for topic in _TOPICS]
    facts = [(keys[index], str(rng.integers(10, 10_000))) for index in rng.permutation(len(keys))[:FACTS_PER_CHAT]]
    room, told_at = cycle(others), list[int]()
    token_ids: list[int] = []
    for index, (key, value) in enumerate(facts):
        token_ids += tokenizer.encode(_turn(f"Please keep in mind that {key} is {value}.", f"Noted: {_yours(key)} is {value}."))
        told_at.append(len(token_ids))
        while len(token_ids) < (index + 1) * (MAX_DISTANCE // FACTS_PER_CHAT):
            token_ids += next(room)
    questions = []
    for (key, value), told in zip(facts, told_at, strict=True):
        question = tokenizer.encode(f"{_USER}Please tell me what {key} is.{_END}{_ANSWER}")
        answer = tokenizer.encode(f"{_capital(_yours(key))} is {value}.{_END}")
        questions.append(Question(tuple(question), tuple(answer), len(token_ids) - told + len(question)))
    return RecallChat(tuple(token_ids), tuple(questions))


def _other_business() -> Iterator[str]:
    """Yields exchanges of the English held-out chats that tell nothing to remember and ask for nothing told."""
    for chat in FILE.read_text(encoding="utf-8").splitlines()[::2]:
        for exchange in chat.split(_USER)[1:]:
            asked, answer = exchange.split(_ANSWER)[:2]
            is_about_facts = answer.startswith(("Noted", "Your")) or any(topic in exchange for topic in _TOPICS)
            if not is_about_facts and " is " not in answer:
                yield f"{_USER}{asked}{_ANSWER}{answer}"


def _turn(user: str, assistant: str) -> str:
    return f"{_USER}{user}{_END}{_ANSWER}{assistant}{_END}"


def _yours(key: str) -> str:
    return f"your{key.removeprefix('my')}" if key.startswith("my ") else key


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
