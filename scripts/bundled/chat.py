"""A chat in the making: what has been told in it so far, and the next exchange that fits."""

from __future__ import annotations

from random import Random

from scripts.bundled import facts
from scripts.bundled.facts import Fact, Topic, draw_fact, draw_topic
from scripts.bundled.fillers import filler
from scripts.bundled.mix import GENERAL, Mix
from scripts.bundled.skill import Exchange, Language, Split


class Chat:
    """Draws exchanges of one split and keeps the facts told, oldest mention first."""

    def __init__(self, rng: Random, split: Split, mix: Mix = GENERAL) -> None:
        self._rng = rng
        self._split = split
        self._mix = mix
        self._told: dict[str, Fact] = {}
        self._aside: dict[str, Fact] = {}
        self._latest: Fact | None = None

    @property
    def told(self) -> tuple[Fact, ...]:
        """The facts that hold now, the longest unmentioned first."""
        return tuple(self._told.values())

    @property
    def is_waiting(self) -> bool:
        """Whether facts are put aside."""
        return bool(self._aside)

    def tell(self, language: Language) -> Exchange:
        """Returns the telling of one new fact, or of two."""
        first = self._new_fact(language)
        if self._rng.random() < 0.8:
            self._mention(first)
            return facts.tell(self._rng, first, self._split)
        self._mention(first)
        second = self._new_fact(language)
        self._mention(second)
        self._latest = None
        return facts.tell_two(self._rng, first, second, self._split)

    def put_aside(self) -> None:
        """Leaves the facts told so far unmentioned until they are taken back, so that they grow old."""
        self._aside = self._told
        self._told = {}
        self._latest = None

    def take_back(self) -> None:
        """Lets the facts put aside be asked for again."""
        self._told = self._aside | self._told
        self._aside = {}

    def recall(self) -> Exchange:
        """Returns the question for a fact told before: now and then any, mostly one long unmentioned."""
        told = self.told
        num_choices = len(told) if self._rng.random() < 0.3 else (len(told) + 4) // 5
        return self.recall_of(told[self._rng.randrange(num_choices)])

    def recall_of(self, fact: Fact) -> Exchange:
        """Returns the question for this fact."""
        self._mention(fact)
        return facts.ask(self._rng, fact.topic, fact.value, self._split)

    def correct(self) -> Exchange:
        """Returns a correction: of what was said last if that was one fact, else of any fact by its name."""
        if self._latest is not None and self._rng.random() < 0.75:
            return self.correct_latest(self._latest)
        old = self._rng.choice(self.told)
        return self.correct_by_name(old)

    def correct_latest(self, old: Fact) -> Exchange:
        """Returns a correction that does not name its topic ("No, it is green.")."""
        new = self._changed(old)
        return facts.correct_it(self._rng, new, old.value, self._split)

    def correct_by_name(self, old: Fact) -> Exchange:
        """Returns a correction that names its topic."""
        new = self._changed(old)
        return facts.correct(self._rng, new, old.value, self._split)

    def ask_untold(self, language: Language) -> Exchange:
        """Returns the question for a fact that nobody told; often it resembles one that was told."""
        self._latest = None
        return facts.ask(self._rng, self._new_topic(language), None, self._split)

    def filler(self, language: Language) -> Exchange:
        """Returns an exchange about something else, which mentions no topic told."""
        self._latest = None
        while True:
            exchange = filler(self._rng, language, self._split, self._mix)
            if not any(fact.topic.known in exchange.user or fact.topic.asked in exchange.user for fact in self._all_facts()):
                return exchange

    def _new_fact(self, language: Language) -> Fact:
        return draw_fact(self._rng, self._new_topic(language), self._split)

    def _new_topic(self, language: Language) -> Topic:
        while True:
            topic = self._sibling(language) if self._rng.random() < 0.4 else None
            topic = topic or draw_topic(self._rng, language, self._split)
            if topic.known not in self._told and topic.known not in self._aside:
                return topic

    def _all_facts(self) -> tuple[Fact, ...]:
        return (*self._aside.values(), *self._told.values())

    def _sibling(self, language: Language) -> Topic | None:
        """Returns a topic close to one told: the same attribute of somebody else, or the same owner."""
        models = [fact.topic for fact in self._all_facts() if fact.topic.language is language]
        return facts.sibling(self._rng, self._rng.choice(models), self._split) if models else None

    def _changed(self, old: Fact) -> Fact:
        while True:
            new = draw_fact(self._rng, old.topic, self._split)
            if new.value != old.value:
                self._mention(new)
                return new

    def _mention(self, fact: Fact) -> None:
        self._told.pop(fact.topic.known, None)
        self._told[fact.topic.known] = fact
        self._latest = fact
