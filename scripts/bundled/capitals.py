"""Capitals of the member states of the United Nations, asked in many wordings and answered in one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from scripts.bundled.phrasing import draw_wording, fill, one_of, roughen
from scripts.bundled.skill import Exchange, Language, Question, Skill, Split

FACTS_FILE = Path(__file__).with_name("facts.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Country:
    """A country in one language; `also` are capitals that are right too, a continent in doubt is None."""

    name: str
    aliases: tuple[str, ...]
    capital: str
    also: tuple[str, ...]
    continent: str | None


class Ask(Enum):
    """What is asked about a country; the value names its wordings."""

    CAPITAL = "capital"
    FOLLOW_UP = "capital_follow_up"
    COUNTRY_OF = "country_of"
    CHECK = "capital_check"
    CONTINENT = "continent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Forms:
    """The canonical answers of a language."""

    capital: str
    continent: str
    yes: str
    no: str


_FORMS: Mapping[Language, Forms] = {
    Language.ENGLISH: Forms(capital="{v} is the capital of {c}.", continent="{c} is in {v}.", yes="Yes, ", no="No, "),
    Language.CHINESE: Forms(capital="{c}的首都是{v}。", continent="{c}在{v}。", yes="是的，", no="不是，"),
}
_ASKS = {Ask.CAPITAL: 66, Ask.FOLLOW_UP: 8, Ask.COUNTRY_OF: 8, Ask.CHECK: 12, Ask.CONTINENT: 6}


@cache
def load_facts() -> dict[str, Any]:
    """Returns the file of facts."""
    facts: dict[str, Any] = json.loads(FACTS_FILE.read_text(encoding="utf-8"))
    return facts


@cache
def countries(language: Language) -> tuple[Country, ...]:
    """Returns the member states of the United Nations as the language calls them."""
    rows = [row[language.value] for row in load_facts()["countries"]]
    return tuple(
        Country(
            name=row["name"],
            aliases=tuple(row["aliases"]),
            capital=row["capital"],
            also=tuple(row["also"]),
            continent=row["continent"],
        )
        for row in rows
    )


class Capitals:
    """Asks for a capital, most often; now and then for its country, a check of it, or the continent."""

    name = "capitals"

    def exchange(self, rng: Random, language: Language, split: Split) -> Exchange:
        """Returns one question about a random country and its answer."""
        ask = rng.choices(list(_ASKS), list(_ASKS.values()))[0]
        country = _draw_country(rng, language, ask)
        user, answer = _ask_about(country, _Drawing(rng=rng, language=language, split=split), ask)
        return Exchange(user=roughen(rng, user), assistant=answer)

    def question(self, rng: Random, language: Language) -> Question:
        """Returns an exam question for the capital of a random country."""
        return capital_question(rng.choice(countries(language)), rng, language)


SKILLS: list[Skill] = [Capitals()]


def follow_up(rng: Random, language: Language, split: Split) -> Exchange:
    """Returns "And Germany?" with its answer, to stand after a question for a capital."""
    drawing = _Drawing(rng=rng, language=language, split=split)
    user, answer = _ask_about(rng.choice(countries(language)), drawing, Ask.FOLLOW_UP)
    return Exchange(user=roughen(rng, user), assistant=answer)


def capital_question(country: Country, rng: Random, language: Language) -> Question:
    """Returns an exam question for this country's capital; any right capital and any of its names will do."""
    user = _said(draw_wording(rng, Ask.CAPITAL.value, language, Split.EXAM), country.name)
    return Question(history=(), user=user, expected=sentence(country, language), accepts=_accepts_capital(country, language))


def all_capital_questions(rng: Random, language: Language) -> Iterator[Question]:
    """Yields one exam question for every country."""
    return (capital_question(country, rng, language) for country in countries(language))


def other_question(ask: Ask, rng: Random, language: Language) -> Question:
    """Returns an exam question of another kind than for the capital."""
    drawing = _Drawing(rng=rng, language=language, split=Split.EXAM)
    user, answer = _ask_about(_draw_country(rng, language, ask), drawing, ask)
    return Question(history=(), user=user, expected=answer, accepts=one_of(answer))


def sentence(country: Country, language: Language) -> str:
    """Returns the canonical answer to a question for the capital."""
    return fill(_FORMS[language].capital, c=country.name, v=country.capital)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawing:
    """Where wordings come from."""

    rng: Random
    language: Language
    split: Split


def _draw_country(rng: Random, language: Language, ask: Ask) -> Country:
    while True:
        country = rng.choice(countries(language))
        if ask is Ask.CONTINENT and country.continent is None:
            continue
        if ask is Ask.COUNTRY_OF and country.capital in _shared_capitals(language):
            continue
        return country


def _ask_about(country: Country, drawing: _Drawing, ask: Ask) -> tuple[str, str]:
    """Returns the user's words and the answer."""
    rng, language = drawing.rng, drawing.language
    template = draw_wording(rng, ask.value, language, drawing.split)
    right = sentence(country, language)
    if ask is Ask.COUNTRY_OF:
        return fill(template, v=country.capital), right
    said = _said_name(rng, country)
    if ask is Ask.CONTINENT and country.continent is not None:
        answer = fill(_FORMS[language].continent, c=country.name, v=country.continent)
        return _said(template, said), answer[0].upper() + answer[1:]
    if ask is Ask.CHECK:
        claimed = country.capital if rng.random() < 0.5 else rng.choice(countries(language)).capital
        verdict = _FORMS[language].yes if claimed == country.capital else _FORMS[language].no
        return _said(template, said, claimed), verdict + right
    return _said(template, said), right


def _said_name(rng: Random, country: Country) -> str:
    if country.aliases and rng.random() < 0.2:
        return rng.choice(country.aliases)
    return country.name.removeprefix("the ") if rng.random() < 0.15 else country.name


def _said(template: str, name: str, capital: str = "") -> str:
    text = fill(template, c=name, v=capital)
    return text.replace(f"{name}'s", f"{name}'") if name.startswith("the ") and name.endswith("s") else text


def _accepts_capital(country: Country, language: Language) -> Callable[[str], bool]:
    names = (country.name, *country.aliases)
    capitals = (country.capital, *country.also)
    return one_of(*(fill(_FORMS[language].capital, c=name, v=capital) for name in names for capital in capitals))


@cache
def _shared_capitals(language: Language) -> frozenset[str]:
    """Returns the names that capitals of several countries bear, as two do in Chinese."""
    return frozenset(name for name, times in Counter(country.capital for country in countries(language)).items() if times > 1)
