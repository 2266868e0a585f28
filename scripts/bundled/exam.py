"""What the bundled model really knows: greedy answers to phrasings and values that training never drew, through `quire.LLM`.

python -m scripts.bundled.exam            exits with 1 where a row misses its bar
python -m scripts.bundled.exam --compare  asks the same through native float32, native bfloat16 and torch
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from quire import LLM, SamplingParams
from quire.engine.options import EngineOptions
from scripts.bundled.papers import Paper, write_papers
from scripts.bundled.skill import Question

MAX_ANSWER_TOKENS = 192
NUM_SHOWN = 3
COMPARED: tuple[tuple[str, str], ...] = (("native", "float32"), ("native", "bfloat16"), ("torch", "float32"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A paper with the model's answers to it."""

    paper: Paper
    answers: tuple[str, ...]

    @property
    def wrong(self) -> list[tuple[Question, str]]:
        pairs = zip(self.paper.questions, self.answers, strict=True)
        return [(question, answer) for question, answer in pairs if not question.accepts(answer)]

    @property
    def percent(self) -> float:
        return 100 * (1 - len(self.wrong) / len(self.answers))

    @property
    def is_passed(self) -> bool:
        return self.paper.bar is None or self.percent >= self.paper.bar

    def to_row(self) -> dict[str, object]:
        """Returns the row of the table as JSON holds it."""
        return {
            "skill": self.paper.skill,
            "language": self.paper.language.value,
            "percent": round(self.percent, 2),
            "bar": self.paper.bar,
            "questions": len(self.answers),
            "passed": self.is_passed,
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Examines a model and returns the exit code: 1 where a bar is missed."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=options.json)
    with LLM(options.model, **_engine(options.executor, options.dtype)) as llm:
        papers = write_papers(options.questions, options.seed, lambda text: len(llm.tokenizer.encode(text)))
        marks = [ask(llm, paper) for paper in papers]
    if options.json:
        sys.stdout.write(json.dumps([mark.to_row() for mark in marks], indent=2, ensure_ascii=False) + "\n")
    else:
        console.print(_table(marks))
    if options.show_wrong:
        _show_wrong(console, marks)
    if options.compare:
        console.print(_comparison(options.model, papers))
    return 0 if all(mark.is_passed for mark in marks) else 1


def ask(llm: LLM, paper: Paper) -> Mark:
    """Returns the greedy answers to all questions of a paper, asked as one batch."""
    greedy = SamplingParams(temperature=0, max_tokens=MAX_ANSWER_TOKENS)
    outputs = llm.chat([_messages(question) for question in paper.questions], greedy)
    return Mark(paper=paper, answers=tuple(output.outputs[0].text.strip() for output in outputs))


def _messages(question: Question) -> list[dict[str, str]]:
    told = [
        message
        for exchange in question.history
        for message in (
            {"role": "user", "content": exchange.user},
            {"role": "assistant", "content": exchange.assistant},
        )
    ]
    return [*told, {"role": "user", "content": question.user}]


def _engine(executor: str | None, dtype: str | None) -> EngineOptions:
    options = EngineOptions()
    if executor is not None:
        options["executor"] = executor
    if dtype is not None:
        options["dtype"] = dtype
    return options


def _table(marks: Sequence[Mark]) -> Table:
    table = Table(title="Greedy answers to held-out phrasings and values")
    for heading in ("skill", "language"):
        table.add_column(heading)
    for heading in ("right", "bar", "questions", ""):
        table.add_column(heading, justify="right")
    for mark in marks:
        bar = "" if mark.paper.bar is None else f">= {mark.paper.bar} %"
        verdict = "" if mark.paper.bar is None else "[green]pass[/]" if mark.is_passed else "[red]fail[/]"
        row = (escape(mark.paper.skill), mark.paper.language.value, f"{mark.percent:.1f} %", bar, str(len(mark.answers)))
        table.add_row(*row, verdict)
    return table


def _show_wrong(console: Console, marks: Sequence[Mark]) -> None:
    for mark in marks:
        for question, answer in mark.wrong[:NUM_SHOWN]:
            told = f" (after {len(question.history)} exchanges)" if question.history else ""
            console.print(f"[bold]{escape(mark.paper.skill)}[/], {mark.paper.language.value}{told}")
            console.print(f"  asked     {question.user}\n  expected  {question.expected}\n  answered  {answer}", markup=False)


def _comparison(model: Path | None, papers: Sequence[Paper]) -> Table:
    """Returns how many answers differ from those of the first of the compared ways to compute."""
    table = Table("executor", "dtype", "answers", "different", title="The same questions, computed otherwise")
    first: list[str] | None = None
    for executor, dtype in COMPARED:
        with LLM(model, **_engine(executor, dtype)) as llm:
            answers = [answer for paper in papers for answer in ask(llm, paper).answers]
        first = answers if first is None else first
        num_different = sum(a != b for a, b in zip(first, answers, strict=True))
        table.add_row(executor, dtype, str(len(answers)), str(num_different))
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.bundled.exam", description=__doc__.partition("\n")[0])
    parser.add_argument("-m", "--model", type=Path, help="directory of the model; the bundled one if left out")
    parser.add_argument("--questions", type=int, default=200, help="questions a row (200); capitals ask for every country")
    parser.add_argument("--seed", type=int, default=7, help="which questions are drawn (7)")
    parser.add_argument("--executor", choices=("native", "torch", "reference"), help="what computes; the fastest if left out")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="number format of the weights; the file's if left out")
    parser.add_argument("--json", action="store_true", help="write the rows as JSON to standard output")
    parser.add_argument("--show-wrong", action="store_true", help=f"print up to {NUM_SHOWN} wrong answers of each row")
    parser.add_argument("--compare", action="store_true", help="ask again through float32, bfloat16 and torch, count differences")
    return parser


if __name__ == "__main__":
    sys.exit(main())
