"""Greetings, thanks, and short true answers about the model and how language models are served: one answer to each topic."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from scripts.bundled.phrasing import Phrasings, phrasings_of, roughen
from scripts.bundled.skill import Exchange, Language, Question, Skill, Split

SMALLTALK_FILE = Path(__file__).with_name("smalltalk.json")
_KEPT = ("Quire", "KV")


class SmallTalk:
    """Answers what `smalltalk.json` lists, always in the same words."""

    name = "greetings, thanks, itself"

    def exchange(self, rng: Random, language: Language, split: Split) -> Exchange:
        """Returns a remark or question of one topic and the topic's answer."""
        topic = rng.choice(topics())
        said = topic_phrasings(topic, language).draw(rng, split)
        return Exchange(user=roughen(rng, said, _KEPT), assistant=topic_answer(topic, language))

    def question(self, rng: Random, language: Language) -> Question:
        """Returns an exam question; only the topic's own answer is right."""
        exchange = self.exchange(rng, language, Split.EXAM)
        answer = exchange.assistant
        return Question(history=(), user=exchange.user, expected=answer, accepts=lambda text: text.strip() == answer)


@cache
def topics() -> tuple[str, ...]:
    """Returns the names of all topics."""
    return tuple(_smalltalk_file())


@cache
def topic_phrasings(topic: str, language: Language) -> Phrasings:
    """Returns how users speak of the topic."""
    lists = _smalltalk_file()[topic][language.value]
    return phrasings_of(lists["train"], lists["exam"])


def topic_answer(topic: str, language: Language) -> str:
    """Returns the answer to the topic."""
    answer: str = _smalltalk_file()[topic][language.value]["answer"]
    return answer


@cache
def _smalltalk_file() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(SMALLTALK_FILE.read_text(encoding="utf-8"))
    return content


SKILLS: tuple[Skill, ...] = (SmallTalk(),)
