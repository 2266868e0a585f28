"""Facts that a user tells, corrects and asks for: who owns what, how it is worded, and what the memory of a chat must answer.

    "Remember: my lucky number is 4711."   ->   "Noted: your lucky number is 4711."
    "What was my lucky number again?"      ->   "Your lucky number is 4711."

An answer repeats the words of the fact in one fixed form, so whoever can find these words again finds the value after them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from scripts.bundled.phrasing import fill, roughen
from scripts.bundled.skill import Exchange, Language, Split
from scripts.bundled.values import KINDS, draw_value, invent, listed

FACTS_FILE = Path(__file__).with_name("memory_facts.json")
UNKNOWN: Mapping[Language, str] = {Language.ENGLISH: "I do not know.", Language.CHINESE: "\u6211\u4e0d\u77e5\u9053\u3002"}
_SLOTS = ("{k}", "{K}", "{v}", "{l}", "{L}", "{w}", "{o}")
_SMALL_LETTERS = 0.06
_OWNER_WEIGHTS = (0.42, 0.2, 0.18, 0.2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """What a fact is about: `asked` in the user's words, `known` in the assistant's, which also identify it."""

    language: Language
    kind: str
    asked: str
    known: str
    attribute: Mapping[str, Any] | None = None  # None for a thing with a key of its own
    own: Mapping[str, Any] | None = None  # wordings of this attribute alone, where the user speaks of himself

    def sentence(self, value: str) -> str:
        """Returns the one form in which the assistant says the fact."""
        return _sentence_case(self.clause(value)) + ("." if self.language is Language.ENGLISH else "\u3002")

    def clause(self, value: str) -> str:
        """Returns the fact as a part of a sentence."""
        return f"{self.known} is {value}" if self.language is Language.ENGLISH else f"{self.known}\u662f{value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A topic and the value that holds."""

    topic: Topic
    value: str


def draw_topic(rng: Random, language: Language, split: Split) -> Topic:
    """Returns a topic of the user, of his kin, of a named person, or a thing with a key of its own."""
    owner = rng.choices(("own", "kin", "person", "key"), _OWNER_WEIGHTS)[0]
    if owner == "key":
        return _key_topic(rng, language)
    return _owned_topic(rng, owner, rng.choice(_attributes(owner)), language, split)


def sibling(rng: Random, topic: Topic, split: Split) -> Topic:
    """Returns a topic that is easily taken for the given one: the same attribute of somebody else, or another key."""
    if topic.attribute is None:
        return _key_topic(rng, topic.language)
    owners = [owner for owner in ("own", "kin", "person") if topic.attribute in _attributes(owner)]
    return _owned_topic(rng, rng.choice(owners), topic.attribute, topic.language, split)


def draw_fact(rng: Random, topic: Topic, split: Split) -> Fact:
    """Returns the topic with a new value, now and then typed in small letters."""
    value = draw_value(rng, topic.kind, topic.language, split)
    return Fact(topic=topic, value=value.lower() if rng.random() < _SMALL_LETTERS else value)


def tell(rng: Random, fact: Fact, split: Split) -> Exchange:
    """Returns the exchange in which the user tells the fact."""
    template = _template(rng, fact.topic, "tell", split)
    return Exchange(user=_worded(rng, template, fact, o=""), assistant=noted((fact,)))


def tell_two(rng: Random, first: Fact, second: Fact, split: Split) -> Exchange:
    """Returns the exchange in which the user tells two facts in one message."""
    template = rng.choice(frames("tell_two", first.topic.language, split))
    other = second.topic.asked
    user = _worded(rng, template, first, l=other, L=_sentence_case(other), w=second.value)
    return Exchange(user=user, assistant=noted((first, second)))


def ask(rng: Random, topic: Topic, value: str | None, split: Split) -> Exchange:
    """Returns the exchange in which the user asks for a fact; without a value it was never told."""
    template = _template(rng, topic, "ask", split)
    answer = UNKNOWN[topic.language] if value is None else topic.sentence(value)
    return Exchange(user=_worded(rng, template, Fact(topic=topic, value="")), assistant=answer)


def correct(rng: Random, fact: Fact, old: str, split: Split) -> Exchange:
    """Returns the exchange in which the user names the topic and gives the new value."""
    template = rng.choice(frames("correct", fact.topic.language, split))
    return Exchange(user=_worded(rng, template, fact, o=old), assistant=noted((fact,)))


def correct_it(rng: Random, fact: Fact, old: str, split: Split) -> Exchange:
    """Returns the exchange in which the user corrects what was said last ("No, it is green.")."""
    template = rng.choice(frames("correct_it", fact.topic.language, split))
    return Exchange(user=_worded(rng, template, fact, o=old), assistant=noted((fact,)))


def noted(facts: Sequence[Fact]) -> str:
    """Returns the assistant's answer to facts it was told."""
    clauses = [fact.topic.clause(fact.value) for fact in facts]
    if facts[0].topic.language is Language.ENGLISH:
        return f"Noted: {' and '.join(clauses)}."
    return f"\u8bb0\u4f4f\u4e86\uff1a{chr(0xFF0C).join(clauses)}\u3002"


def frames(use: str, language: Language, split: Split) -> tuple[str, ...]:
    """Returns the wordings that fit every topic."""
    wordings: tuple[str, ...] = tuple(_facts_file()["frames"][use][language.value][split.value])
    return wordings


def _template(rng: Random, topic: Topic, use: str, split: Split) -> str:
    own = (topic.own or {}).get(use, {}).get(topic.language.value)
    if own is not None and rng.random() < 0.4:
        return str(rng.choice(own[split.value]))
    return rng.choice(frames(use, topic.language, split))


def _worded(rng: Random, template: str, fact: Fact, **slots: str) -> str:
    asked = fact.topic.asked
    return fill(roughen(rng, template, _SLOTS), k=asked, K=_sentence_case(asked), v=fact.value, **slots)


def _owned_topic(rng: Random, owner: str, attribute: Mapping[str, Any], language: Language, split: Split) -> Topic:
    names: list[str] = attribute[language.value]
    name, asked_name = names[0], names[0] if rng.random() < 0.7 else rng.choice(names)
    asked, known = _owners(rng, owner, language, split)
    own = attribute if owner == "own" else None
    return Topic(
        language=language, kind=attribute["kind"], asked=asked + asked_name, known=known + name, attribute=attribute, own=own
    )


def _owners(rng: Random, owner: str, language: Language, split: Split) -> tuple[str, str]:
    """Returns whose it is in the user's words and in the assistant's."""
    is_english = language is Language.ENGLISH
    if owner == "own":
        return ("my ", "your ") if is_english else ("\u6211", "\u4f60")
    if owner == "kin":
        kin = rng.choice(_facts_file()["kin"][language.value])
        return (f"my {kin}'s ", f"your {kin}'s ") if is_english else (f"\u6211{kin}", f"\u4f60{kin}")
    is_listed = rng.random() < 0.4
    person = rng.choice(listed("name", language, split)) if is_listed else invent(rng, "name", language, split)
    return (f"{person}'s ", f"{person}'s ") if is_english else (person, person)


def _key_topic(rng: Random, language: Language) -> Topic:
    keys = _facts_file()["keys"][language.value]
    if rng.random() < 0.45:
        key = rng.choice(keys["simple"])
        return Topic(language=language, kind=rng.choice(KINDS), asked=key, known=key)
    noun, thing = rng.choice(tuple(keys["nouns"])), rng.choice(keys["things"])
    kind = keys["nouns"][noun]
    if language is Language.ENGLISH:
        asked = f"the {noun} of {thing}"
        return Topic(language=language, kind=kind, asked=asked, known=asked.replace(" my ", " your "))
    asked = f"{thing}\u7684{noun}"
    return Topic(language=language, kind=kind, asked=asked, known=asked.replace("\u6211", "\u4f60"))


@cache
def _attributes(owner: str) -> tuple[Mapping[str, Any], ...]:
    allowed = {"own": ("own", "kin", "anyone"), "kin": ("kin", "anyone"), "person": ("anyone",)}[owner]
    return tuple(attribute for attribute in _facts_file()["attributes"] if attribute["whose"] in allowed)


@cache
def _facts_file() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(FACTS_FILE.read_text(encoding="utf-8"))
    return content


def _sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]
