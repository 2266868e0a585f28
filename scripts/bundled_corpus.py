"""The text that the bundled model learns: conversations drawn from `bundled_facts.json`, and the exam on phrasings it never saw.

    speaker.conversation(...)  ->  Turn(question, answer), Turn(...), ...     each conversation is new, nothing repeats by epoch

Phrasings come in two lists, TRAIN and HELD_OUT; training draws from the first only, the exam from the second only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

Item = TypeVar("Item")
Facts = Mapping[str, Any]

FACTS_FILE = Path(__file__).with_name("bundled_facts.json")
MAX_SUMMAND = 30
_SLOT = re.compile(r"(\{\w+\})")
_SKILLS = {
    "capital": 0.27,
    "follow_up": 0.04,
    "no_capital": 0.05,
    "country": 0.04,
    "check": 0.03,
    "topic": 0.17,
    "tell": 0.09,
    "recall": 0.09,
    "sum": 0.08,
    "unknown": 0.10,
    "capital_zh": 0.03,
    "unknown_zh": 0.01,
}


class Split(Enum):
    """Which phrasings, names and sums a speaker uses; the two never share one."""

    TRAIN = "train"
    HELD_OUT = "held_out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One question and the answer the model should give."""

    skill: str
    question: str
    answer: str


def load_facts() -> Facts:
    """Returns what the corpus is made from."""
    facts: Facts = json.loads(FACTS_FILE.read_text(encoding="utf-8"))
    return facts


class Speaker:
    """Draws turns of one split. `roughness` in [0, 1] is how often people lose capitals, full stops and letters."""

    def __init__(self, facts: Facts, split: Split, seed: int, roughness: float) -> None:
        self._facts = facts
        self._split = split
        self._rng = np.random.default_rng(seed)
        self._roughness = roughness
        self._told: dict[str, str] = {}
        self._countries = tuple(facts["capitals"])

    def begin(self) -> None:
        """Starts a new conversation: nothing has been told yet."""
        self._told.clear()

    def system(self) -> str | None:
        """Returns a system message for one conversation in eight."""
        return self._pick(self._facts["systems"]) if self._chance(0.125) else None

    def turn(self) -> Turn:
        """Returns the next turn of the conversation, of a random skill."""
        skill = str(self._rng.choice(list(_SKILLS), p=list(_SKILLS.values())))
        return self.turn_of(skill)

    def turn_of(self, skill: str) -> Turn:
        """Returns the next turn of the conversation, of the given skill."""
        question, answer = getattr(self, f"_{skill}")()
        return Turn(skill=skill, question=question, answer=answer)

    def statement(self) -> str:
        """Returns a plain sentence outside any conversation."""
        country = self._pick(self._countries)
        return self._capital_sentence(country)

    # -- skills: each returns (question, answer) ------------------------------------------------------------------

    def _capital(self) -> tuple[str, str]:
        said, country = self._country_name()
        return self._ask_capital(said), self._capital_sentence(country)

    def _follow_up(self) -> tuple[str, str]:
        said, country = self._country_name()
        return self._fill(self._phrase("follow_ups"), c=said), self._capital_sentence(country)

    def _no_capital(self) -> tuple[str, str]:
        invented = self._invent() + self._pick(("ia", "land", "stan", ""))
        place = self._pick(self._facts["no_known_capital"]) if self._chance(0.4) else invented
        return self._ask_capital(place), self._facts["unknown"]

    def _country(self) -> tuple[str, str]:
        country = self._pick(self._countries)
        capital = self._facts["capitals"][country]
        if capital == "London":
            country = "England"
        return self._fill(self._phrase("reverse_asks"), v=capital), f"{capital} is the capital of {country}."

    def _check(self) -> tuple[str, str]:
        country = self._pick(self._countries)
        right = self._facts["capitals"][country]
        capital = right if self._chance(0.5) else self._facts["capitals"][self._pick(self._countries)]
        verdict = "Yes" if capital == right else "No"
        return self._fill(self._phrase("check_asks"), c=country, v=capital), f"{verdict}. {self._capital_sentence(country)}"

    def _topic(self) -> tuple[str, str]:
        topic = self._pick(self._facts["topics"])
        phrasings = topic["ask" if self._split is Split.TRAIN else "held_out"]
        return self._fill(self._pick(phrasings)), topic["answer"]

    def _tell(self) -> tuple[str, str]:
        name = self._pick(tuple(self._facts["facts"]))
        fact = self._facts["facts"][name]
        value = self._fact_value(name)
        self._told[name] = value
        return self._fill(self._pick(fact["tell"][self._split.value]), x=value), fact["told"].format(x=value)

    def _recall(self) -> tuple[str, str]:
        names = tuple(self._told) if self._told and self._chance(0.85) else tuple(self._facts["facts"])
        name = self._pick(names)
        fact = self._facts["facts"][name]
        answer = fact["answer"].format(x=self._told[name]) if name in self._told else fact["untold"]
        return self._fill(self._pick(fact["ask"][self._split.value])), answer

    def _sum(self) -> tuple[str, str]:
        while True:
            a, b = (int(number) for number in self._rng.integers(0, MAX_SUMMAND + 1, size=2))
            if (_is_held_out_sum(a, b)) == (self._split is Split.HELD_OUT):
                return self._fill(self._phrase("sums"), a=str(a), b=str(b)), f"{a} + {b} = {a + b}."

    def _unknown(self) -> tuple[str, str]:
        if self._chance(0.5):
            question = self._phrase("noun_frames").replace("{np}", self._pick(self._facts["unknown_nouns"]))
        else:
            question = self._phrase("unknown_asks")
        return self._fill(question, **self._unknown_slots()), self._facts["unknown"]

    def _capital_zh(self) -> tuple[str, str]:
        country = self._pick(tuple(self._facts["capitals_zh"]))
        capital = self._facts["capitals_zh"][country]
        return self._fill(self._phrase("capital_asks_zh"), c=country), f"{country}\u7684\u9996\u90fd\u662f{capital}\u3002"

    def _unknown_zh(self) -> tuple[str, str]:
        country = self._pick(tuple(self._facts["capitals_zh"]))
        return self._fill(self._phrase("unknown_asks_zh"), c=country), self._facts["unknown_zh"]

    # -- words ----------------------------------------------------------------------------------------------------

    def _ask_capital(self, place: str) -> str:
        if self._chance(0.35):
            return self._fill(self._phrase("capital_asks"), c=place)
        frame = self._phrase("noun_frames").replace("{np}", self._pick(self._facts["capital_nouns"]))
        return self._fill(frame, c=place)

    def _capital_sentence(self, country: str) -> str:
        return f"The capital of {country} is {self._facts['capitals'][country]}."

    def _country_name(self) -> tuple[str, str]:
        if self._chance(0.05):
            alias = self._pick(tuple(self._facts["aliases"]))
            return alias, self._facts["aliases"][alias]
        country = self._pick(self._countries)
        return country, country

    def _fact_value(self, name: str) -> str:
        if name == "number":
            return str(int(self._rng.integers(0, 10 ** int(self._rng.integers(1, 5)))))
        if name == "city":
            return self._city() if self._chance(0.6) else self._invent()
        if name == "name":
            known: Sequence[str] = self._facts["names" if self._split is Split.TRAIN else "held_out_names"]
            value = self._pick(known) if self._chance(0.5) else self._invent()
            return value.lower() if self._chance(0.3 * self._roughness) else value
        things: Sequence[str] = self._facts["colours" if name == "colour" else "pets"]
        return self._pick(things)

    def _unknown_slots(self) -> dict[str, str]:
        things = self._facts["things" if self._split is Split.TRAIN else "held_out_things"]
        thing, other = self._pick(things), self._pick(things)
        number, second = (str(int(value)) for value in self._rng.integers(2, 100, size=2))
        first, far = self._pick(self._countries), self._pick(self._countries)
        city = self._city()
        person = self._pick(self._facts["people"]) if self._chance(0.5) else self._invent()
        return {"t": thing, "u": other, "n": number, "m": second, "c": first, "d": far, "v": city, "p": person}

    def _invent(self) -> str:
        num_syllables = 2 if self._split is Split.TRAIN and self._chance(0.5) else 3
        syllables = (self._pick("bcdfghjklmnprstvwz") + self._pick("aeiou") for _ in range(num_syllables))
        return ("".join(syllables) + self._pick(("", "", "n", "r", "s", "l"))).capitalize()

    def _city(self) -> str:
        city: str = self._facts["capitals"][self._pick(self._countries)]
        return city

    def _phrase(self, name: str) -> str:
        phrasings: Sequence[str] = self._facts[name][self._split.value]
        return self._pick(phrasings)

    # -- chance and noise -----------------------------------------------------------------------------------------

    def _pick(self, items: Sequence[Item]) -> Item:
        return items[int(self._rng.integers(len(items)))]

    def _chance(self, probability: float) -> bool:
        return float(self._rng.random()) < probability

    def _fill(self, template: str, **slots: str) -> str:
        """Returns the template with its slots filled; noise never touches `x`, what the user wants remembered."""
        if self._chance(0.25 * self._roughness):
            template = template.rstrip("?.!")
        if self._chance(0.12 * self._roughness):
            template = self._misspell(template)
        change = self._case_change()
        pieces = []
        for piece in _SLOT.split(template):
            text = slots[piece[1:-1]] if _SLOT.fullmatch(piece) else piece
            pieces.append(text if piece == "{x}" else change(text))
        return "".join(pieces)

    def _case_change(self) -> Callable[[str], str]:
        draw = float(self._rng.random())
        if draw < 0.25 * self._roughness:
            return str.lower
        return str.upper if draw < 0.30 * self._roughness else str

    def _misspell(self, template: str) -> str:
        inside = {i for slot in _SLOT.finditer(template) for i in range(*slot.span())}
        letters = [
            i for i, letter in enumerate(template[:-1]) if letter.isascii() and letter.isalpha() and not {i, i + 1} & inside
        ]
        if not letters:
            return template
        i = self._pick(letters)
        broken = self._pick((template[i + 1], template[i] * 2 + template[i + 1], template[i + 1] + template[i]))
        return template[:i] + broken + template[i + 2 :]


def _is_held_out_sum(a: int, b: int) -> bool:
    return (a * (MAX_SUMMAND + 1) + b) % 13 == 0
