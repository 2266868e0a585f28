"""Words in quotation marks: a tokenizer writes a word there with other tokens than after a space, and here the two meet.

    Put painting and India in quotation marks.   ->   "painting", "India"

The words of records are quoted whatever their split: what is held out is a record that contains them. Those that only the exam's
records contain are quoted most, since no record of training shows them after a quotation mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from random import Random

from scripts.bundled.capitals import load_facts
from scripts.bundled.phrasing import belongs, draw_wording, fill, one_of, roughen
from scripts.bundled.skill import Exchange, Language, Question, Skill, Split
from scripts.bundled.values import invent, listed

MAX_WORDS = 4
EXAM_SHARE, TRAIN_SHARE = 0.4, 0.25  # of words from records; the rest are told about oneself or invented
_KINDS = ("name", "colour", "town", "animal", "food", "job", "word")
_SEPARATORS = {Language.ENGLISH: (", ", ", ", "; ", " and "), Language.CHINESE: ("，", "、", "；")}


class Quoting:
    """Puts a few words into quotation marks."""

    name = "quoting words"

    def exchange(self, rng: Random, language: Language, split: Split) -> Exchange:
        """Returns words in a wording of the split, and the same words quoted."""
        words = _draw_words(rng, language, split)
        said = rng.choice(_SEPARATORS[language]).join(words)
        user = fill(draw_wording(rng, "quote", language, split), w=said)
        return Exchange(user=roughen(rng, user, (said,)), assistant=_quoted(words))

    def question(self, rng: Random, language: Language) -> Question:
        """Returns an exam question, in a wording that training never shows."""
        words = _draw_words(rng, language, Split.EXAM)
        said = rng.choice(_SEPARATORS[language]).join(words)
        user = fill(draw_wording(rng, "quote", language, Split.EXAM), w=said)
        return Question(history=(), user=user, expected=_quoted(words), accepts=one_of(_quoted(words)))


SKILLS: list[Skill] = [Quoting()]


def _draw_words(rng: Random, language: Language, split: Split) -> list[str]:
    return [_draw_word(rng, language, split) for _ in range(rng.randint(1, MAX_WORDS))]


def _draw_word(rng: Random, language: Language, split: Split) -> str:
    draw = rng.random()
    kind = rng.choice(_KINDS)
    if draw < EXAM_SHARE:
        return rng.choice(record_words(language, Split.EXAM))
    if draw < EXAM_SHARE + TRAIN_SHARE:
        return rng.choice(record_words(language, Split.TRAIN))
    return invent(rng, kind, language, split) if rng.random() < 0.5 else rng.choice(listed(kind, language, split))


@cache
def record_words(language: Language, split: Split) -> tuple[str, ...]:
    """Returns every listed word that a record of the split can hold."""
    lists: dict[str, list[str]] = load_facts()["record_words"][language.value]
    return tuple(dict.fromkeys(word for words in lists.values() for word in words if belongs(word, split)))


def _quoted(words: Sequence[str]) -> str:
    return ", ".join(f'"{word}"' for word in words)
