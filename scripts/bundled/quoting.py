"""Words in quotation marks: a tokenizer writes a word there with other tokens than after a space, and here the two meet.

    Put painting and India in quotation marks.   ->   "painting", "India"

Training quotes every listed word that a record could hold, those most that its records leave out. The exam's words are invented.
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
LEFT_OUT_SHARE, RECORD_SHARE = 0.4, 0.25  # of words that records of training leave out or hold; the rest are told or invented
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
    if split is Split.EXAM:
        return invent(rng, kind, language, split)
    if draw < LEFT_OUT_SHARE:
        return rng.choice(record_words(language, is_in_records=False))
    if draw < LEFT_OUT_SHARE + RECORD_SHARE:
        return rng.choice(record_words(language, is_in_records=True))
    return invent(rng, kind, language, split) if rng.random() < 0.5 else rng.choice(listed(kind, language, split))


@cache
def record_words(language: Language, *, is_in_records: bool) -> tuple[str, ...]:
    """Returns every listed word of records that those of training hold, or leave out."""
    lists: dict[str, list[str]] = load_facts()["record_words"][language.value]
    split = Split.TRAIN if is_in_records else Split.EXAM
    return tuple(dict.fromkeys(word for words in lists.values() for word in words if belongs(word, split)))


def _quoted(words: Sequence[str]) -> str:
    return ", ".join(f'"{word}"' for word in words)
