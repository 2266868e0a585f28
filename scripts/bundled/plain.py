"""Plain sentences outside any conversation, so that the model can also go on with a text."""

from __future__ import annotations

from random import Random

from scripts.bundled.arithmetic import SKILLS as ARITHMETIC
from scripts.bundled.capitals import Country, countries, sentence
from scripts.bundled.skill import Language, Split

MAX_SENTENCES = 6
_CHINESE_SHARE = 0.3
_ARITHMETIC_SHARE = 0.25


def plain_text(rng: Random) -> str:
    """Returns a few true sentences about capitals and sums in one language."""
    language = Language.CHINESE if rng.random() < _CHINESE_SHARE else Language.ENGLISH
    sentences = [_sentence(rng, language) for _ in range(rng.randint(1, MAX_SENTENCES))]
    return ("" if language is Language.CHINESE else " ").join(sentences)


def _sentence(rng: Random, language: Language) -> str:
    if rng.random() < _ARITHMETIC_SHARE:
        return rng.choice(ARITHMETIC).exchange(rng, language, Split.TRAIN).assistant
    country = rng.choice(countries(language))
    if language is Language.ENGLISH and rng.random() < 0.5:
        return _turned_around(country)
    return sentence(country, language)


def _turned_around(country: Country) -> str:
    return f"The capital of {country.name} is {country.capital}."
