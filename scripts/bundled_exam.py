"""What the exported model really knows: greedy answers on phrasings, names and sums that training never drew.

A greedy answer equals the expected one exactly when, after each right token, the next right token has the largest
logit. So one forward pass over question and answer decides whole answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import torch
from bundled_chat import ChatEncoder, Row
from bundled_corpus import Facts, Speaker, Split, Turn
from rich.table import Table
from transformers import LlamaForCausalLM

NUM_QUESTIONS = 150
NUM_TURNS_BETWEEN = 12
SKILLS: Mapping[str, str] = {
    "capital": "capital of a country",
    "follow_up": 'follow-up ("and Germany?")',
    "no_capital": "admits an unknown capital",
    "country": "country of a capital",
    "check": "yes or no about a capital",
    "topic": "greetings, itself, inference",
    "tell": "takes note of a fact",
    "recall": "recalls a fact of the last turn",
    "recall_far": f"recalls a fact {NUM_TURNS_BETWEEN} turns later",
    "sum": "adds two numbers up to 30",
    "unknown": "admits an unknown answer",
    "capital_zh": "capital, in Chinese",
    "unknown_zh": "unknown, in Chinese",
}


class Paper(Enum):
    """How the questions of one column are phrased."""

    SEEN = "trained phrasing, rough"
    NEW = "new phrasing"
    NEW_ROUGH = "new phrasing, rough"

    @property
    def split(self) -> Split:
        return Split.TRAIN if self is Paper.SEEN else Split.HELD_OUT

    @property
    def roughness(self) -> float:
        return 0.0 if self is Paper.NEW else 1.0


Marks = Mapping[tuple[str, Paper], tuple[bool, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Marks of the exported weights, and how many answers change with the rounding or the arithmetic."""

    marks: Marks
    num_changed_by_rounding: int
    num_changed_by_arithmetic: int

    @property
    def num_answers(self) -> int:
        return sum(len(marks) for marks in self.marks.values())

    def rows(self) -> list[tuple[str, ...]]:
        """Returns one row a skill: its words, then the share of exact answers in each paper."""
        return [(words, *(_percent(self.marks[skill, paper]) for paper in Paper)) for skill, words in SKILLS.items()]

    def table(self) -> Table:
        """Returns the marks for the terminal."""
        table = Table("skill", *(paper.value for paper in Paper), title="exact greedy answers")
        for row in self.rows():
            table.add_row(*row)
        table.caption = self.rounding_sentence()
        return table

    def rounding_sentence(self) -> str:
        """Returns what bfloat16 does to the answers."""
        return (
            f"Of {self.num_answers} verdicts, rounding the weights to bfloat16 changes {self.num_changed_by_rounding} "
            f"and bfloat16 arithmetic another {self.num_changed_by_arithmetic}."
        )


class Exam:
    """The same questions for every model it is shown."""

    def __init__(self, facts: Facts, encoder: ChatEncoder, seed: int = 7) -> None:
        self._papers: dict[tuple[str, Paper], list[tuple[Row, int]]] = {}
        for paper in Paper:
            speaker = Speaker(facts, paper.split, seed=seed, roughness=paper.roughness)
            for skill in SKILLS:
                dialogues = [_dialogue(speaker, skill) for _ in range(NUM_QUESTIONS)]
                self._papers[skill, paper] = [_question(encoder, turns) for turns in dialogues]

    def marks(self, model: LlamaForCausalLM) -> Marks:
        """Returns for every question whether the whole greedy answer is right."""
        return {key: tuple(_is_right(model, row, start) for row, start in paper) for key, paper in self._papers.items()}

    def report(self, directory: Path, before: Marks) -> Report:
        """Returns the marks of the exported model, compared with the marks before its weights were rounded."""
        exact = self.marks(_load(directory, torch.float32))
        rounded = self.marks(_load(directory, torch.bfloat16))
        return Report(
            marks=exact,
            num_changed_by_rounding=_num_changed(before, exact),
            num_changed_by_arithmetic=_num_changed(exact, rounded),
        )


def _dialogue(speaker: Speaker, skill: str) -> list[Turn]:
    """Returns the turns that lead to the question, the question last."""
    speaker.begin()
    if skill == "follow_up":
        return [speaker.turn_of("capital"), speaker.turn_of("follow_up")]
    if skill == "recall":
        return [speaker.turn_of("tell"), speaker.turn_of("recall")]
    if skill == "recall_far":
        between = [speaker.turn_of(name) for name in ("capital", "topic", "sum", "unknown") * (NUM_TURNS_BETWEEN // 4)]
        return [speaker.turn_of("tell"), *between, speaker.turn_of("recall")]
    return [speaker.turn_of(skill)]


def _question(encoder: ChatEncoder, turns: list[Turn]) -> tuple[Row, int]:
    """Returns the row and where its last answer starts."""
    row = encoder.turns(turns)
    start = len(row.is_answer) - tuple(reversed(row.is_answer)).index(False)
    return row, start


@torch.inference_mode()
def _is_right(model: LlamaForCausalLM, row: Row, start: int) -> bool:
    token_ids = torch.tensor([row.token_ids])
    best = model(input_ids=token_ids).logits[0, start - 1 : -1].argmax(dim=-1)
    return torch.equal(best, token_ids[0, start:])


def _load(directory: Path, dtype: torch.dtype) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(directory, dtype=dtype, local_files_only=True).eval()


def _num_changed(first: Marks, second: Marks) -> int:
    return sum(a != b for key in first for a, b in zip(first[key], second[key], strict=True))


def _percent(marks: tuple[bool, ...]) -> str:
    return f"{100 * sum(marks) / len(marks):.0f} %"
