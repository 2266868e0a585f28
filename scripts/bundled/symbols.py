"""Copying, reversing and counting short strings of symbols; every tenth string is kept for the exam.

How often a symbol occurs is answered at once in the first stage of training, which did not teach it, and after that in turn:

    How often does A occur in BANANA?   ->   BA(1)NA(2)NA(3): A occurs 3 times.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from random import Random

from scripts.bundled.phrasing import belongs, draw_wording, fill, one_of, roughen
from scripts.bundled.skill import Exchange, Language, Question, Skill, Split

MAX_LENGTH = 12
_ALPHABETS = (string.ascii_uppercase + string.digits, string.ascii_uppercase, string.digits)
_LENGTH_FORMS = {Language.ENGLISH: "{s} has {n} symbols.", Language.CHINESE: "{s}有{n}个符号。"}
_AT_ONCE_FORMS = {Language.ENGLISH: "{x} occurs {n} times in {s}.", Language.CHINESE: "{x}在{s}中出现{n}次。"}
_IN_TURN_FORMS = {Language.ENGLISH: "{t}: {x} occurs {n} times.", Language.CHINESE: "{t}：{x}出现{n}次。"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A question before its wording: which wordings, what fills them, and the answer."""

    wording: str
    slots: Mapping[str, str]
    answer: str


MakeTask = Callable[[Random, Language, Split], Task]


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolSkill:
    """One way to handle a string of symbols; `make` draws a task whose string belongs to the split."""

    name: str
    make: MakeTask

    def exchange(self, rng: Random, language: Language, split: Split) -> Exchange:
        """Returns a task of the split with its answer."""
        task = self.make(rng, language, split)
        user = fill(draw_wording(rng, task.wording, language, split), **task.slots)
        return Exchange(user=roughen(rng, user, tuple(task.slots.values())), assistant=task.answer)

    def question(self, rng: Random, language: Language) -> Question:
        """Returns an exam question about a string that training never shows."""
        task = self.make(rng, language, Split.EXAM)
        user = fill(draw_wording(rng, task.wording, language, Split.EXAM), **task.slots)
        return Question(history=(), user=user, expected=task.answer, accepts=one_of(task.answer))


def draw_symbols(rng: Random, split: Split, alphabet: str | None = None) -> str:
    """Returns 1 to 12 symbols of the split, all lengths alike."""
    while True:
        letters = alphabet or rng.choice(_ALPHABETS)
        symbols = "".join(rng.choices(letters, k=rng.randint(1, MAX_LENGTH)))
        if belongs(symbols, split):
            return symbols


def _copy(rng: Random, _: Language, split: Split) -> Task:
    symbols, separator = _with_separator(rng, split)
    said = separator.join(symbols)
    return Task(wording="copy", slots={"s": said}, answer=said)


def _reverse(rng: Random, _: Language, split: Split) -> Task:
    symbols, separator = _with_separator(rng, split)
    return Task(wording="reverse", slots={"s": separator.join(symbols)}, answer=separator.join(reversed(symbols)))


def _count(occurrences: MakeTask, rng: Random, language: Language, split: Split) -> Task:
    draw = rng.random()
    if draw < 0.2:
        return _count_range(rng, language, split)
    if draw < 0.4:
        return occurrences(rng, language, split)
    symbols, separator = _with_separator(rng, split)
    said = separator.join(symbols)
    answer = _singular(fill(_LENGTH_FORMS[language], s=said, n=len(symbols)), len(symbols))
    return Task(wording="count_symbols", slots={"s": said}, answer=answer)


def _occurrences_at_once(rng: Random, language: Language, split: Split) -> Task:
    return _occurrences(rng, split, _AT_ONCE_FORMS[language])


def _occurrences_in_turn(rng: Random, language: Language, split: Split) -> Task:
    return _occurrences(rng, split, _IN_TURN_FORMS[language])


def _occurrences(rng: Random, split: Split, form: str) -> Task:
    few = "".join(rng.sample(rng.choice(_ALPHABETS), rng.randint(2, 4)))
    symbols = draw_symbols(rng, split, few)
    one = rng.choice(few)
    times = symbols.count(one)
    answer = _singular(fill(form, x=one, s=symbols, t=tally(symbols, one), n=times), times)
    return Task(wording="count_of", slots={"x": one, "s": symbols}, answer=answer)


def tally(symbols: str, one: str) -> str:
    """Returns the symbols with the number of each occurrence of `one` behind it."""
    return "".join(f"{symbol}({symbols[: at + 1].count(one)})" if symbol == one else symbol for at, symbol in enumerate(symbols))


def _count_range(rng: Random, _: Language, split: Split) -> Task:
    while True:
        first = rng.choice((0, 1, 1, rng.randint(0, 90)))
        last = first + rng.randint(1, MAX_LENGTH - 1)
        if belongs(f"{first}..{last}", split):
            numbers = ", ".join(map(str, range(first, last + 1)))
            return Task(wording="count_range", slots={"a": str(first), "b": str(last)}, answer=numbers)


def _with_separator(rng: Random, split: Split) -> tuple[str, str]:
    """Returns symbols and what stands between them, mostly nothing."""
    separator = rng.choices(("", " ", ", "), (75, 15, 10))[0]
    is_small = separator and rng.random() < 0.25
    return draw_symbols(rng, split, string.ascii_lowercase if is_small else None), separator


def _singular(text: str, count: int) -> str:
    return text.replace("1 symbols", "1 symbol").replace("1 times", "1 time") if count == 1 else text


COPYING = SymbolSkill(name="copying", make=_copy)
REVERSING = SymbolSkill(name="reversing", make=_reverse)
COUNTING_AT_ONCE = SymbolSkill(name="counting at once", make=partial(_count, _occurrences_at_once))
COUNTING = SymbolSkill(name="counting", make=partial(_count, _occurrences_in_turn))
OCCURRENCES = SymbolSkill(name="occurrences", make=_occurrences_in_turn)
SKILLS: list[Skill] = [COUNTING_AT_ONCE, REVERSING, COPYING]
STRING_SKILLS: list[Skill] = [REVERSING, COPYING]
COUNTING_SKILLS: list[Skill] = [COUNTING, OCCURRENCES]
