"""Two-digit sums and differences; every tenth pair of numbers is kept for the exam."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from scripts.bundled.phrasing import belongs, draw_wording, fill, one_of, roughen
from scripts.bundled.skill import Exchange, Language, Question, Skill, Split

MAX_OPERAND = 99
_END = {Language.ENGLISH: ".", Language.CHINESE: "。"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """One operation on two operands in [0, 99]; its result may be negative."""

    name: str
    sign: str

    def exchange(self, rng: Random, language: Language, split: Split) -> Exchange:
        """Returns a task of the split with its equation."""
        a, b = self._operands(rng, split)
        user = fill(draw_wording(rng, self.name, language, split), a=a, b=b)
        return Exchange(user=roughen(rng, user), assistant=self._equation(a, b) + _END[language])

    def question(self, rng: Random, language: Language) -> Question:
        """Returns an exam question about a pair that training never shows."""
        a, b = self._operands(rng, Split.EXAM)
        user = fill(draw_wording(rng, self.name, language, Split.EXAM), a=a, b=b)
        answer = self._equation(a, b)
        return Question(
            history=(),
            user=user,
            expected=answer + _END[language],
            accepts=one_of(answer, *(answer + end for end in _END.values())),
        )

    def _operands(self, rng: Random, split: Split) -> tuple[int, int]:
        while True:
            a, b = rng.randint(0, MAX_OPERAND), rng.randint(0, MAX_OPERAND)
            if belongs(f"{a}{self.sign}{b}", split):
                return a, b

    def _equation(self, a: int, b: int) -> str:
        result = a + b if self.sign == "+" else a - b
        return f"{a} {self.sign} {b} = {result}"


ADDITION = Arithmetic(name="addition", sign="+")
SUBTRACTION = Arithmetic(name="subtraction", sign="-")
SKILLS: list[Skill] = [ADDITION, SUBTRACTION]
