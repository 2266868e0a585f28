"""The papers of the exam: which questions make a row of its table, and the share of right answers the row must reach."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from scripts.bundled import arithmetic, capitals, memory, quoting, records, smalltalk, sorting, symbols, unknown
from scripts.bundled.skill import Language, Question, Skill

NEAR_TOKENS, FAR_TOKENS = 600, 1500

CountTokens = Callable[[str], int]
DrawQuestion = Callable[[Random, Language], Question]


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """One row: its questions and its bar in percent; a row without a bar is told, not judged."""

    skill: str
    language: Language
    bar: int | None
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A row before its questions are drawn."""

    skill: str
    bar: int | None
    draw: DrawQuestion


def write_papers(num_questions: int, seed: int, tokens_of: CountTokens) -> list[Paper]:
    """Returns every row in both languages, the same for the same seed; capitals ask for every country."""
    papers = [_capitals_paper(language, seed) for language in Language]
    for subject in _subjects(tokens_of):
        for language in Language:
            rng = _rng(seed, subject.skill, language)
            questions = tuple(subject.draw(rng, language) for _ in range(num_questions))
            papers.append(Paper(skill=subject.skill, language=language, bar=subject.bar, questions=questions))
    return papers


def _capitals_paper(language: Language, seed: int) -> Paper:
    skill = "capital of every member state"
    questions = tuple(capitals.all_capital_questions(_rng(seed, skill, language), language))
    return Paper(skill=skill, language=language, bar=97, questions=questions)


def _subjects(tokens_of: CountTokens) -> list[Subject]:
    near = partial(memory.recall_question, min_tokens_back=0, max_tokens_back=NEAR_TOKENS, tokens_of=tokens_of)
    far = partial(memory.recall_question, min_tokens_back=NEAR_TOKENS + 1, max_tokens_back=FAR_TOKENS, tokens_of=tokens_of)
    return [
        Subject(skill="country of a capital", bar=None, draw=partial(capitals.other_question, capitals.Ask.COUNTRY_OF)),
        Subject(skill="is it the capital?", bar=None, draw=partial(capitals.other_question, capitals.Ask.CHECK)),
        Subject(skill="continent", bar=None, draw=partial(capitals.other_question, capitals.Ask.CONTINENT)),
        Subject(skill=f"recall, up to {NEAR_TOKENS} tokens back", bar=95, draw=near),
        Subject(skill=f"recall, {NEAR_TOKENS + 1} to {FAR_TOKENS} tokens back", bar=85, draw=far),
        Subject(skill="recall of a corrected fact", bar=90, draw=memory.correction_question),
        Subject(skill="two-digit addition", bar=95, draw=arithmetic.ADDITION.question),
        Subject(skill="two-digit subtraction", bar=95, draw=arithmetic.SUBTRACTION.question),
        Subject(skill="counting", bar=90, draw=symbols.COUNTING.question),
        Subject(skill="reversing", bar=90, draw=symbols.REVERSING.question),
        Subject(skill="copying", bar=90, draw=symbols.COPYING.question),
        Subject(skill="sorting", bar=90, draw=_any_of(sorting.SKILLS)),
        Subject(skill="words in quotation marks", bar=None, draw=_any_of(quoting.SKILLS)),
        Subject(skill="JSON of a record", bar=95, draw=_any_of(records.SKILLS)),
        Subject(skill='"I do not know"', bar=90, draw=_any_of(unknown.SKILLS)),
        Subject(skill="greetings, thanks, itself", bar=90, draw=_any_of(smalltalk.SKILLS)),
    ]


def _any_of(skills: Sequence[Skill]) -> DrawQuestion:
    return lambda rng, language: rng.choice(skills).question(rng, language)


def _rng(seed: int, skill: str, language: Language) -> Random:
    return Random(zlib.crc32(f"{seed}:{skill}:{language.value}".encode()))
