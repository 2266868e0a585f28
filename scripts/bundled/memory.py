"""Exam questions about facts told earlier: so many tokens back, among other facts and other business, or corrected since."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from scripts.bundled.chat import Chat
from scripts.bundled.facts import Fact
from scripts.bundled.skill import Exchange, Language, Question, Split

_MESSAGE_TOKENS = 2  # the role before a message and the end after it
_MANY_TOKENS = 600
_LEAST_TURNS = 10
_FACT_SHARE = 0.3


def recall_question(
    rng: Random, language: Language, min_tokens_back: int, max_tokens_back: int, tokens_of: Callable[[str], int]
) -> Question:
    """Returns a question for the fact told first, which nothing has repeated since.

    From the end of the telling to the end of the question lie [min_tokens_back, max_tokens_back] tokens; `tokens_of`
    counts those of a text. Where they may be more than 600, at least ten exchanges lie between.
    """
    least_turns = _LEAST_TURNS if max_tokens_back > _MANY_TOKENS else 0
    while True:
        target = rng.randint(min_tokens_back, max_tokens_back)
        chat = Chat(rng, Split.EXAM)
        history = [chat.tell(language)]
        fact = rng.choice(chat.told)
        asked = chat.recall_of(fact)
        num_tokens = tokens_of(asked.user) + _MESSAGE_TOKENS
        while num_tokens < target:
            history.append(_between(rng, chat, language))
            num_tokens += _tokens(history[-1], tokens_of)
        if min_tokens_back <= num_tokens <= max_tokens_back and len(history) > least_turns:
            return _question(history, asked, fact)


def correction_question(rng: Random, language: Language) -> Question:
    """Returns a question for a fact that was told and then corrected, with other business before and after."""
    chat = Chat(rng, Split.EXAM)
    history = [chat.tell(language)]
    old = rng.choice(chat.told)
    history += [_between(rng, chat, language) for _ in range(rng.randrange(3))]
    if rng.random() < 0.5:
        history += [chat.recall_of(old), chat.correct_latest(old)]
    else:
        history.append(chat.correct_by_name(old))
    new = chat.told[-1]
    history += [_between(rng, chat, language) for _ in range(rng.randint(1, 4))]
    return _question(history, chat.recall_of(new), new)


def _between(rng: Random, chat: Chat, language: Language) -> Exchange:
    return chat.tell(language) if rng.random() < _FACT_SHARE else chat.filler(language)


def _question(history: list[Exchange], asked: Exchange, fact: Fact) -> Question:
    expected = fact.topic.sentence(fact.value)
    return Question(history=tuple(history), user=asked.user, expected=expected, accepts=lambda answer: answer.strip() == expected)


def _tokens(exchange: Exchange, tokens_of: Callable[[str], int]) -> int:
    return tokens_of(exchange.user) + tokens_of(exchange.assistant) + 2 * _MESSAGE_TOKENS
