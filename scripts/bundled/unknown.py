"""Questions whose honest answer is "I do not know.": the world at large, capitals that do not exist, facts never told."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from scripts.bundled.facts import UNKNOWN, ask, draw_fact, draw_topic, sibling, tell
from scripts.bundled.phrasing import Phrasings, fill, is_held_out, phrasings_of, roughen
from scripts.bundled.skill import Exchange, Language, Question, Skill, Split
from scripts.bundled.values import invent, listed

UNKNOWN_FILE = Path(__file__).with_name("unknown.json")
_SLOTS = tuple(f"{{{letter}}}" for letter in "tupcdvei")
_ENDINGS = ("", "", "ia", "land", "stan")


class Unknown:
    """Admits what it was never told."""

    name = "admits what it does not know"

    def exchange(self, rng: Random, language: Language, split: Split) -> Exchange:
        """Returns a question about the world, an invented country or the user, and the admission."""
        if rng.random() < 0.25:
            return ask(rng, draw_topic(rng, language, split), None, split)
        return world_exchange(rng, language, split)

    def question(self, rng: Random, language: Language) -> Question:
        """Returns an exam question; only the admission is right. Three in ten follow facts that resemble what is asked."""
        history: tuple[Exchange, ...] = ()
        exchange = self.exchange(rng, language, Split.EXAM)
        if rng.random() < 0.3:
            history, exchange = _resembling(rng, language)
        answer = exchange.assistant
        return Question(history=history, user=exchange.user, expected=answer, accepts=lambda text: text.strip() == answer)


def world_exchange(rng: Random, language: Language, split: Split) -> Exchange:
    """Returns a question about the world and the admission; nothing a user tells could answer it."""
    use = "capital_" if rng.random() < 0.3 else ""
    template = roughen(rng, _phrasings(use, language).draw(rng, split), _SLOTS)
    return Exchange(user=_filled(rng, template, language, split), assistant=UNKNOWN[language])


def _resembling(rng: Random, language: Language) -> tuple[tuple[Exchange, ...], Exchange]:
    """Returns the telling of one to three facts, and the question for another that one could take for them."""
    asked = draw_topic(rng, language, Split.EXAM)
    topics = {topic.known: topic for topic in (sibling(rng, asked, Split.EXAM) for _ in range(rng.randint(1, 3)))}
    others = [topic for known, topic in topics.items() if known != asked.known]
    told = tuple(tell(rng, draw_fact(rng, topic, Split.EXAM), Split.EXAM) for topic in others)
    return told, ask(rng, asked, None, Split.EXAM)


def _filled(rng: Random, template: str, language: Language, split: Split) -> str:
    def noun(kind: str) -> str:
        return rng.choice(_nouns(kind, language, split))

    slots = {"t": noun("things"), "u": noun("things"), "e": noun("events"), "c": noun("countries"), "d": noun("countries")}
    slots["p"] = noun("people") if rng.random() < 0.5 else invent(rng, "name", language, split)
    slots["v"] = rng.choice(listed("town", language, split)) if rng.random() < 0.6 else invent(rng, "town", language, split)
    slots["i"] = noun("nowhere") if rng.random() < 0.3 else _invented_country(rng, language, split)
    return fill(template, **slots)


def _invented_country(rng: Random, language: Language, split: Split) -> str:
    name = invent(rng, "town", language, split)
    if language is Language.ENGLISH:
        return name + rng.choice(_ENDINGS)
    return name + rng.choice(("\u56fd", "\u5171\u548c\u56fd", "", "\u5c9b"))


@cache
def _nouns(kind: str, language: Language, split: Split) -> tuple[str, ...]:
    """Returns the listed nouns of the split; countries serve both, for the question about them is what differs."""
    nouns = tuple(_unknown_file()[language.value][kind])
    if kind == "countries":
        return nouns
    held_out = tuple(noun for noun in nouns if is_held_out(noun)) or nouns[-1:]
    return held_out if split is Split.EXAM else tuple(noun for noun in nouns if noun not in held_out)


@cache
def _phrasings(use: str, language: Language) -> Phrasings:
    lists = _unknown_file()[language.value]
    return phrasings_of(lists[f"{use}train"], lists[f"{use}exam"])


@cache
def _unknown_file() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(UNKNOWN_FILE.read_text(encoding="utf-8"))
    return content


SKILLS: tuple[Skill, ...] = (Unknown(),)
