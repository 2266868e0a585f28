"""Whole conversations: single exchanges, and chats in which facts are told, corrected and asked for between everything else.

    tell   other   tell   ask   correct   other   ask   never told   other   ask ...

Four turns in ten of a long chat ask for something told before, near or far, so that most chats teach to look back.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from random import Random

from scripts.bundled.chat import Chat
from scripts.bundled.fillers import any_exchange
from scripts.bundled.mix import GENERAL, Length, Mix
from scripts.bundled.skill import Exchange, Language, Split

Message = dict[str, str]

SYSTEMS_FILE = Path(__file__).with_name("systems.json")
MEMORY_SHARE = 0.08
SYSTEM_SHARE = 0.125
CHINESE_SHARE = 0.35
MIXED_SHARE = 0.05
MESSAGE_TOKENS = 2  # the role before a message and the end after it
_ALONE = re.compile(r"[0-9A-Z.,?!:;'\"-]")  # characters that are mostly a token each
_ASIDE_AT = (0.05, 0.25)  # the share of a chat after which its first facts are put aside ...
_BACK_AT = (0.4, 0.85)  # ... and after which they are taken back
_RECALL_SHARE_ASIDE = 0.28  # of the turns in between
_RECALL_SHARE = 0.52  # of all other turns
_RECALL_SHARE_PER_FACT = 0.2  # at most, for little can be asked while little is told
_MEDIUM_TOKENS = (250, 500)
_LONG_TOKENS = (1150, 1900)


def conversation(rng: Random, mix: Mix = GENERAL) -> list[Message]:
    """Returns the messages of a new conversation for training."""
    length = rng.choices(tuple(mix.lengths), tuple(mix.lengths.values()))[0]
    languages = _languages(rng)
    system = [_system(rng, languages[0])] if rng.random() < SYSTEM_SHARE else []
    return system + messages_of(exchanges(rng, length, languages, mix))


def exchanges(
    rng: Random, length: Length, languages: tuple[Language, ...], mix: Mix = GENERAL, split: Split = Split.TRAIN
) -> list[Exchange]:
    """Returns the exchanges of a conversation of the given length, in phrasings and values of the split."""
    if length is Length.SINGLE:
        return _single(rng, languages[0], mix, split)
    chat = Chat(rng, split, mix)
    if length is Length.SHORT:
        return _chat(chat, rng, languages, max_turns=rng.randint(2, 6), max_tokens=_MEDIUM_TOKENS[1])
    fewest, most = _MEDIUM_TOKENS if length is Length.MEDIUM else _LONG_TOKENS
    return _chat(chat, rng, languages, max_turns=200, max_tokens=rng.randint(fewest, most))


def messages_of(turns: list[Exchange]) -> list[Message]:
    """Returns the exchanges as chat messages."""
    pairs = (({"role": "user", "content": turn.user}, {"role": "assistant", "content": turn.assistant}) for turn in turns)
    return [message for pair in pairs for message in pair]


def estimate_tokens(text: str) -> float:
    """Returns about how many tokens the bundled tokenizer makes of the text."""
    num_ascii = len(text.encode("ascii", "ignore"))
    num_alone = len(_ALONE.findall(text))
    return 1.05 * num_alone + 0.25 * (num_ascii - num_alone) + 1.03 * (len(text) - num_ascii)


def exchange_tokens(exchange: Exchange) -> float:
    """Returns about how many tokens the two messages take."""
    return estimate_tokens(exchange.user) + estimate_tokens(exchange.assistant) + 2 * MESSAGE_TOKENS


def told_and_asked(rng: Random, language: Language, split: Split = Split.TRAIN) -> list[Exchange]:
    """Returns the telling of a fact and the question for it, or for another that was never told."""
    chat = Chat(rng, split)
    return [chat.tell(language), chat.recall() if rng.random() < 0.8 else chat.ask_untold(language)]


def _single(rng: Random, language: Language, mix: Mix, split: Split) -> list[Exchange]:
    if rng.random() < MEMORY_SHARE:
        return told_and_asked(rng, language, split)
    return [any_exchange(rng, language, split, mix)]


def _chat(chat: Chat, rng: Random, languages: tuple[Language, ...], max_turns: int, max_tokens: int) -> list[Exchange]:
    """Returns a chat; most put their first facts aside for a while, so that these are asked for from afar."""
    turns: list[Exchange] = []
    num_tokens = 0.0
    aside_at, back_at = (rng.uniform(*share) * max_tokens for share in (_ASIDE_AT, _BACK_AT))
    while len(turns) < max_turns:
        turn = _next_turn(rng, chat, rng.choice(languages))
        before, num_tokens = num_tokens, num_tokens + exchange_tokens(turn)
        if num_tokens > max_tokens:
            break
        turns.append(turn)
        if before < aside_at <= num_tokens:
            chat.put_aside()
        if before < back_at <= num_tokens:
            chat.take_back()
    return turns


def _next_turn(rng: Random, chat: Chat, language: Language) -> Exchange:
    draw = rng.random()
    if not chat.told:
        return chat.tell(language) if draw < 0.6 else chat.filler(language) if draw < 0.9 else chat.ask_untold(language)
    recall = min(_RECALL_SHARE_ASIDE if chat.is_waiting else _RECALL_SHARE, _RECALL_SHARE_PER_FACT * len(chat.told))
    if draw < recall:
        return chat.recall()
    if draw < recall + 0.06:
        return chat.correct()
    if draw < recall + 0.14:
        return chat.ask_untold(language)
    if rng.random() < _eagerness(chat):
        return chat.tell(language)
    return chat.filler(language)


def _eagerness(chat: Chat) -> float:
    """Returns how likely a new fact is: often while few are told, seldom later."""
    return 0.5 if len(chat.told) < 6 else 0.3 if len(chat.told) < 18 else 0.1


def _languages(rng: Random) -> tuple[Language, ...]:
    if rng.random() < MIXED_SHARE:
        return tuple(Language)
    return (Language.CHINESE,) if rng.random() < CHINESE_SHARE else (Language.ENGLISH,)


def _system(rng: Random, language: Language) -> Message:
    return {"role": "system", "content": rng.choice(_systems()[language.value])}


@cache
def _systems() -> dict[str, list[str]]:
    content: dict[str, list[str]] = json.loads(SYSTEMS_FILE.read_text(encoding="utf-8"))
    return content
