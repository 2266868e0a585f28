"""Sorting short lists of numbers, and naming the largest and the smallest; every tenth list is kept for the exam."""

from __future__ import annotations

from random import Random

from scripts.bundled.phrasing import belongs, draw_wording, fill, one_of, roughen
from scripts.bundled.skill import Exchange, Language, Question, Skill, Split

MIN_LENGTH, MAX_LENGTH, MAX_NUMBER = 3, 7, 99
_KINDS = {"sort": 70, "sort_down": 14, "largest": 8, "smallest": 8}
_EXTREME_FORMS = {
    Language.ENGLISH: {"largest": "The largest number is {n}.", "smallest": "The smallest number is {n}."},
    Language.CHINESE: {"largest": "最大的数是{n}。", "smallest": "最小的数是{n}。"},
}
_SEPARATORS = {Language.ENGLISH: (", ", ", ", " ", ","), Language.CHINESE: ("，", ", ", "、", " ")}


class Sorting:
    """Ascending order, most often."""

    name = "sorting"

    def exchange(self, rng: Random, language: Language, split: Split) -> Exchange:
        """Returns a list of the split and what was asked of it."""
        user, said, answer = _ask(rng, language, split)
        return Exchange(user=roughen(rng, user, (said,)), assistant=answer)

    def question(self, rng: Random, language: Language) -> Question:
        """Returns an exam question about a list that training never shows."""
        user, _, answer = _ask(rng, language, Split.EXAM)
        return Question(history=(), user=user, expected=answer, accepts=one_of(answer, answer + "."))


SKILLS: list[Skill] = [Sorting()]


def _ask(rng: Random, language: Language, split: Split) -> tuple[str, str, str]:
    """Returns the user's words, the list in them, and the answer."""
    kind = rng.choices(list(_KINDS), list(_KINDS.values()))[0]
    numbers = _draw_numbers(rng, split)
    said = _say(rng, numbers, language)
    return fill(draw_wording(rng, kind, language, split), l=said), said, _answer(kind, numbers, language)


def _draw_numbers(rng: Random, split: Split) -> list[int]:
    while True:
        numbers = [rng.randint(0, MAX_NUMBER) for _ in range(rng.randint(MIN_LENGTH, MAX_LENGTH))]
        if belongs(",".join(map(str, numbers)), split):
            return numbers


def _say(rng: Random, numbers: list[int], language: Language) -> str:
    words = [str(number) for number in numbers]
    if language is Language.ENGLISH and rng.random() < 0.15:
        return ", ".join(words[:-1]) + " and " + words[-1]
    return rng.choice(_SEPARATORS[language]).join(words)


def _answer(kind: str, numbers: list[int], language: Language) -> str:
    if kind in _EXTREME_FORMS[language]:
        return fill(_EXTREME_FORMS[language][kind], n=max(numbers) if kind == "largest" else min(numbers))
    return ", ".join(map(str, sorted(numbers, reverse=kind == "sort_down")))
