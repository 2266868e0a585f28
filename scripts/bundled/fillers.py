"""What else a chat is about: exchanges of all skills in the proportions of the corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from scripts.bundled import arithmetic, capitals, quoting, records, smalltalk, sorting, symbols, unknown
from scripts.bundled.mix import GENERAL, Mix
from scripts.bundled.skill import Exchange, Language, Skill, Split
from scripts.bundled.unknown import world_exchange

SKILLS: Mapping[str, Sequence[Skill]] = {
    "capitals": capitals.SKILLS,
    "arithmetic": arithmetic.SKILLS,
    "symbols": symbols.SKILLS,
    "strings": symbols.STRING_SKILLS,
    "counting": symbols.COUNTING_SKILLS,
    "sorting": sorting.SKILLS,
    "quoting": quoting.SKILLS,
    "records": records.SKILLS,
    "unknown": unknown.SKILLS,
    "smalltalk": smalltalk.SKILLS,
}
"""The skills by the name that a mix gives them."""


def any_exchange(rng: Random, language: Language, split: Split, mix: Mix = GENERAL) -> Exchange:
    """Returns an exchange of a random skill, for a conversation of its own."""
    return _drawn_skill(rng, mix.alone).exchange(rng, language, split)


def filler(rng: Random, language: Language, split: Split, mix: Mix = GENERAL) -> Exchange:
    """Returns an exchange for the middle of a chat, which asks for no fact a user could tell."""
    skill = _drawn_skill(rng, mix.in_chats)
    if skill in unknown.SKILLS:
        return world_exchange(rng, language, split)
    return skill.exchange(rng, language, split)


def _drawn_skill(rng: Random, shares: Mapping[str, int]) -> Skill:
    name = rng.choices(tuple(shares), tuple(shares.values()))[0]
    return rng.choice(SKILLS[name])
