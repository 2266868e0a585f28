"""The bundled model passes its exam, the questions of `python -m scripts.bundled.exam`, and everyone computes the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from scripts.bundled.exam import ask
from scripts.bundled.papers import Paper, write_papers

from quire import LLM

NUM_QUESTIONS = 200
NUM_COMPARED = 4
SEED = 7
Row = tuple[str, str]


def rows(papers: list[Paper]) -> Mapping[Row, Paper]:
    return {(paper.skill, paper.language.value): paper for paper in papers}


JUDGED = [row for row, paper in rows(write_papers(1, SEED, len)).items() if paper.bar is not None]


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM() as engine:
        yield engine


@pytest.fixture(scope="module")
def papers(llm: LLM) -> Mapping[Row, Paper]:
    return rows(write_papers(NUM_QUESTIONS, SEED, lambda text: len(llm.tokenizer.encode(text))))


@pytest.mark.parametrize("row", JUDGED, ids=" ".join)
def test_the_bar_is_reached(llm: LLM, papers: Mapping[Row, Paper], row: Row) -> None:
    mark = ask(llm, papers[row])
    assert mark.percent >= papers[row].bar, mark.wrong[:3]


def test_number_formats_and_executors_answer_alike() -> None:
    answers: list[list[str]] = []
    for executor, dtype in (("native", "float32"), ("native", "bfloat16"), ("torch", "float32")):
        with LLM(executor=executor, dtype=dtype, threads=1) as llm:
            papers = write_papers(NUM_COMPARED, SEED, lambda text, llm=llm: len(llm.tokenizer.encode(text)))
            answers.append([answer for paper in papers[2:] for answer in ask(llm, paper).answers])
    for others in answers[1:]:
        num_equal = sum(first == other for first, other in zip(answers[0], others, strict=True))
        assert num_equal >= 0.98 * len(others)
