"""What people tell about themselves: half the values stand in lists, half are invented, so that only copying can repeat them.

The exam's values, listed and invented, are those that `phrasing.is_held_out` keeps from training. A held-out value must not be a
word that training shows in another role: "ivory" could not be listed, because of Ivory Coast.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from scripts.bundled.phrasing import FACT_PERCENT, is_held_out, is_unseen
from scripts.bundled.skill import Language, Split

VALUES_FILE = Path(__file__).with_name("values.json")
KINDS = ("name", "colour", "number", "age", "code", "spot", "town", "place", "animal", "pet", "food", "job", "month", "word")
_ONSETS = tuple("b bl br ch d dr f fl g gl gr h j k kl kr l m n p pl pr qu r s sh sk sl st t th tr v vr w y z".split())  # noqa: SIM905
_VOWELS = (*"aaaeeeiiiooouu", "ai", "au", "ea", "ee", "ia", "io", "oa", "oo", "ou")
_CODAS = ("", "", "", "", "b", "d", "ck", "l", "m", "n", "nd", "p", "r", "rn", "s", "st", "t", "x", "z")
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
_PLACES = ["bridge", "hotel", "gate", "tower", "market", "park", "cafe", "station", "square", "school", "garden", "hall"]
_SPOTS = ["row", "level", "deck", "floor", "bay", "gate"]
_NUMBER_LENGTHS = (1, 2, 2, 3, 3, 4, 4, 5)


def draw_value(rng: Random, kind: str, language: Language, split: Split) -> str:
    """Returns a value of one of the KINDS, in the language and of the split."""
    if kind == "number":
        return draw_number(rng, rng.choice(_NUMBER_LENGTHS), split)
    if kind == "age":
        return draw_number(rng, 2, split)
    if kind == "code":
        return _kept(rng, split, _code)
    if kind == "spot":
        return _kept(rng, split, _spot if language is Language.ENGLISH else _code)
    if kind == "pet":
        return _pet(rng, language, split)
    if kind != "month" and rng.random() < 0.5:
        return invent(rng, kind, language, split)
    return rng.choice(listed(kind, language, split))


def draw_number(rng: Random, num_digits: int, split: Split) -> str:
    """Returns a number of so many digits; a single digit may be in both splits, for there are only ten."""
    if num_digits == 1:
        return str(rng.randrange(10))
    return _kept(rng, split, lambda draws: str(draws.randrange(10 ** (num_digits - 1), 10**num_digits)))


def invent(rng: Random, kind: str, language: Language, split: Split) -> str:
    """Returns an invented word that could be of the kind."""
    if language is Language.CHINESE:
        return _kept(rng, split, _chinese_name if kind == "name" else _chinese_word)
    word = _kept(rng, split, invented_word)
    if kind in ("name", "town"):
        return word.capitalize()
    if kind == "place":
        return f"the {word.capitalize()} {rng.choice(_PLACES)}"
    return word


def invented_word(rng: Random) -> str:
    """Returns a pronounceable word of one to four syllables that means nothing."""
    num_syllables = rng.choice((1, 2, 2, 2, 3, 3, 4))
    syllables = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(num_syllables)]
    return "".join(syllables) + rng.choice(_CODAS if num_syllables > 1 else _CODAS[4:])


@cache
def listed(kind: str, language: Language, split: Split) -> tuple[str, ...]:
    """Returns the listed values of the kind that belong to the split."""
    values = tuple(dict.fromkeys(values_file()[language.value][kind]))
    held_out = tuple(value for value in values if is_held_out(value, FACT_PERCENT)) or values[-1:]
    return held_out if split is Split.EXAM else tuple(value for value in values if value not in held_out)


@cache
def values_file() -> dict[str, Any]:
    """Returns what `values.json` holds."""
    content: dict[str, Any] = json.loads(VALUES_FILE.read_text(encoding="utf-8"))
    return content


def _kept(rng: Random, split: Split, draw: Callable[[Random], str]) -> str:
    """Returns a drawn value that belongs to the split."""
    while True:
        value = draw(rng)
        if is_unseen(value) if split is Split.EXAM else not is_held_out(value.lower(), FACT_PERCENT):
            return value


def _pet(rng: Random, language: Language, split: Split) -> str:
    animal = draw_value(rng, "animal", language, split)
    return f"a {animal}" if language is Language.ENGLISH else animal


def _code(rng: Random) -> str:
    letters = "".join(rng.choice(_LETTERS) for _ in range(rng.choice((1, 2, 3))))
    digits = "".join(rng.choice("0123456789") for _ in range(rng.choice((2, 3, 4))))
    return rng.choice((digits, digits, letters + digits, f"{letters}-{digits}", f"{invented_word(rng)}{digits}"))


def _spot(rng: Random) -> str:
    return _code(rng) if rng.random() < 0.5 else f"{rng.choice(_SPOTS)} {rng.randrange(1, 300)}"


def _chinese_name(rng: Random) -> str:
    data = values_file()
    given = "".join(rng.choice(data["hanzi"]) for _ in range(rng.choice((1, 2, 2))))
    return f"{rng.choice(data['surnames'])}{given}"


def _chinese_word(rng: Random) -> str:
    hanzi: str = values_file()["hanzi"]
    return "".join(rng.choice(hanzi) for _ in range(rng.choice((2, 2, 3))))
