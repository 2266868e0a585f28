"""JSON objects for records that are described in words; fields stand in the order of their mention."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from scripts.bundled.capitals import load_facts
from scripts.bundled.phrasing import belongs, draw_wording, fill, invent_word, load_phrasings, roughen
from scripts.bundled.skill import Exchange, Language, Question, Skill, Split

Value = str | int
MIN_FIELDS, MAX_FIELDS = 2, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """The record and the words it is described in."""

    record: Mapping[str, Value]
    text: str


class Records:
    """Writes a described record as JSON."""

    name = "JSON"

    def exchange(self, rng: Random, language: Language, split: Split) -> Exchange:
        """Returns a record of the split in words, and its JSON."""
        description = _describe(rng, language, split)
        user = fill(draw_wording(rng, "record", language, split), r=description.text)
        return Exchange(user=roughen(rng, user, (description.text,)), assistant=_to_json(description.record))

    def question(self, rng: Random, language: Language) -> Question:
        """Returns an exam question about values that training never shows."""
        description = _describe(rng, language, Split.EXAM)
        user = fill(draw_wording(rng, "record", language, Split.EXAM), r=description.text)
        return Question(history=(), user=user, expected=_to_json(description.record), accepts=_accepts_record(description.record))


SKILLS: list[Skill] = [Records()]


def _describe(rng: Random, language: Language, split: Split) -> Description:
    words: Mapping[str, list[str]] = load_facts()["record_words"][language.value]
    numbers: Mapping[str, list[int]] = load_facts()["record_numbers"][language.value]
    keys = rng.sample([*words, *numbers], rng.randint(MIN_FIELDS, MAX_FIELDS))
    record: dict[str, Value] = {
        key: _draw_word(rng, split, words[key], language) if key in words else _draw_number(rng, split, key, numbers[key])
        for key in keys
    }
    pattern, between, last = load_phrasings("record_body", language).draw(rng, split).split("|")
    clauses = [fill(pattern, k=key, v=value) for key, value in record.items()]
    return Description(record=record, text=between.join(clauses[:-1]) + last + clauses[-1])


def _draw_word(rng: Random, split: Split, known: list[str], language: Language) -> str:
    """Returns a word that means nothing or, in half of the trained records, one of the list, all of which training quotes."""
    words = [word for word in known if belongs(word, Split.TRAIN)]
    if split is Split.TRAIN and words and rng.random() < 0.5:
        return rng.choice(words)
    return _invent_chinese(rng, split) if language is Language.CHINESE else invent_word(rng, split)


def _draw_number(rng: Random, split: Split, key: str, bounds: list[int]) -> int:
    while True:
        number = rng.randint(*bounds)
        if belongs(f"{key}={number}", split):
            return number


def _invent_chinese(rng: Random, split: Split) -> str:
    while True:
        word = "".join(rng.choices(load_facts()["syllables_zh"], k=rng.randint(2, 3)))
        if belongs(word, split):
            return word


def _to_json(record: Mapping[str, Value]) -> str:
    return json.dumps(record, ensure_ascii=False)


def _accepts_record(record: Mapping[str, Value]) -> Callable[[str], bool]:
    def accepts(answer: str) -> bool:
        try:
            read = json.loads(answer)
        except json.JSONDecodeError:
            return False
        return isinstance(read, dict) and list(read.items()) == list(record.items()) and _types(read) == _types(record)

    return accepts


def _types(record: Mapping[str, object]) -> list[type]:
    return [type(value) for value in record.values()]
