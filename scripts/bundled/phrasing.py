"""How questions are worded: a small grammar of alternatives, slots to fill, the roughness of real typing, and what is held out.

    "[What is|Tell me] the capital of {place}."   ->   two templates, each filled with a place

A wording that stands among the exam's is never drawn for training, even where a grammar of the training list yields it too.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from scripts.bundled.skill import Language, Split

OPENER_SHARE = 0.12
FACT_PERCENT = 12  # of the values of facts are held out
PHRASINGS_FILE = Path(__file__).with_name("phrasings.json")
_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")
_FINAL_MARKS = ".?!\u3002\uff1f\uff01"
_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"
_CODAS = ("", "", "n", "r", "s", "l", "k", "th", "x")


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrasings:
    """The wordings of one question in one language; the two splits share none."""

    train: tuple[str, ...]
    exam: tuple[str, ...]

    def draw(self, rng: Random, split: Split) -> str:
        """Returns a template of the split."""
        return rng.choice(self.train if split is Split.TRAIN else self.exam)


def expand(template: str) -> list[str]:
    """Returns every wording of a template with `[one|another]` alternatives, which may stand inside each other."""
    choice = _CHOICE.search(template)
    if choice is None:
        return [template]
    before, after = template[: choice.start()], template[choice.end() :]
    return [text for option in choice.group(1).split("|") for text in expand(before + option + after)]


def phrasings_of(train: Sequence[str], exam: Sequence[str]) -> Phrasings:
    """Returns the expanded wordings; one that is the exam's is taken out of training."""
    held_out = dict.fromkeys(text for template in exam for text in expand(template))
    learned = dict.fromkeys(text for template in train for text in expand(template))
    return Phrasings(train=tuple(text for text in learned if text not in held_out), exam=tuple(held_out))


@cache
def load_phrasings(question: str, language: Language) -> Phrasings:
    """Returns the wordings of `question` as `phrasings.json` lists them."""
    lists: dict[str, Any] = _phrasings_file()[question][language.value]
    return phrasings_of(lists["train"], lists["exam"])


def draw_wording(rng: Random, question: str, language: Language, split: Split) -> str:
    """Returns a template for the question; now and then a trained one opens with words such as "Hi, ..."."""
    phrasings = load_phrasings(question, language)
    template = phrasings.draw(rng, split)
    if split is Split.EXAM or rng.random() >= OPENER_SHARE:
        return template
    opener = rng.choice(load_phrasings("opener", language).train)
    keeps_case = opener[-2] in ".!" or template.startswith(("I ", "JSON", "{"))
    opened = opener + (template if keeps_case else template[0].lower() + template[1:])
    return template if opened in phrasings.exam else opened


def fill(template: str, **slots: str | int) -> str:
    """Returns the template with every `{slot}` filled; a slot without a value raises KeyError."""
    return _SLOT.sub(lambda slot: str(slots[slot.group(1)]), template)


def one_of(*answers: str) -> Callable[[str], bool]:
    """Returns a judge that accepts these answers only, white space around them aside."""
    accepted = frozenset(answers)
    return lambda answer: answer.strip() in accepted


def is_held_out(value: str, percent: int = 10) -> bool:
    """Returns whether a value is kept for the exam: always the same `percent` of all values."""
    return zlib.crc32(f"quire:{value}".encode()) % 100 < percent


def is_unseen(word: str) -> bool:
    """Returns whether training shows a word neither in records, which write it with a capital, nor in facts."""
    return is_held_out(word.capitalize()) and is_held_out(word.lower(), FACT_PERCENT)


def belongs(value: str, split: Split) -> bool:
    """Returns whether a value may be used in the split."""
    return is_held_out(value) == (split is Split.EXAM)


def invent_word(rng: Random, split: Split) -> str:
    """Returns a capitalized word that means nothing, of two or three syllables, never one of the other split."""
    while True:
        syllables = [rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(rng.choice((2, 2, 3)))]
        word = "".join((*syllables, rng.choice(_CODAS))).capitalize()
        if is_unseen(word) if split is Split.EXAM else not is_held_out(word):
            return word


def roughen(rng: Random, text: str, protected: Sequence[str] = ()) -> str:
    """Returns the text as people type it: now and then without its end mark, in small letters, in capitals, or with a typo.

    Occurrences of the protected strings stay as they are, for an answer is to repeat them.
    """
    if rng.random() < 0.2 and text[-1:] in _FINAL_MARKS and not any(value.endswith(text[-1:]) for value in protected if value):
        text = text[:-1]
    parts = _split_protected(text, protected)
    draw = rng.random()
    if draw < 0.15:
        parts[::2] = [part.lower() for part in parts[::2]]
    elif draw < 0.18:
        parts[::2] = [part.upper() for part in parts[::2]]
    elif draw < 0.22:
        _misspell(rng, parts)
    return "".join(parts)


def _split_protected(text: str, protected: Sequence[str]) -> list[str]:
    """Returns parts whose odd ones are protected."""
    values = sorted((value for value in protected if value), key=len, reverse=True)
    return re.split(f"({'|'.join(map(re.escape, values))})", text) if values else [text]


def _misspell(rng: Random, parts: list[str]) -> None:
    free = [index for index in range(0, len(parts), 2) if len(parts[index].strip()) > 3 and parts[index].isascii()]
    if free:
        index = rng.choice(free)
        words = parts[index].split(" ")
        long = [place for place, word in enumerate(words) if len(word) > 3 and word.isalpha()]
        if long:
            place = rng.choice(long)
            words[place] = _misspelt(rng, words[place])
            parts[index] = " ".join(words)


def _misspelt(rng: Random, word: str) -> str:
    at = rng.randrange(1, len(word) - 1)
    swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return rng.choice((swapped, word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:]))


@cache
def _phrasings_file() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(PHRASINGS_FILE.read_text(encoding="utf-8"))
    return content
