"""What documents say of the code, "`file`: `name`", is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SOURCE, DOCUMENTS = REPOSITORY / "src" / "quire", REPOSITORY / "docs"
PLACES = {"architecture.md": SOURCE, "numerics.md": SOURCE / "native" / "csrc"}
QUESTIONS = ("evicted", "chunk boundary", "step raises", "add a family", "int4 weights unpacked")
_NAMED = re.compile(r"`([\w/*]+\.(?:py|h|cpp))`: ((?:`[\w.:]+`(?:, | and )?)+)")


def named_in(document: str) -> set[tuple[str, str]]:
    """Returns the pairs of file and name in a document; a name's class is left out."""
    text = " ".join((DOCUMENTS / document).read_text(encoding="utf-8").split())
    names = ((file, name) for file, listed in _NAMED.findall(text) for name in re.findall(r"`([^`]+)`", listed))
    return {(file, re.split(r"\.|::", name)[-1]) for file, name in names}


def is_defined(name: str, code: str) -> bool:
    """Whether Python or C++ defines a name: a function, a type, a constant, or a method."""
    python = rf"^ *(?:async )?(?:def|class) {name}\b|^{name}\b[^=\n]*= "
    cpp = rf"^ *(?:struct|class|using) {name}\b|^[^/\n]*[\w>&*] [\w:]*\b{name}\([^;]*\{{"
    return re.search(python, code, re.MULTILINE) is not None or re.search(cpp, code, re.MULTILINE) is not None


@pytest.mark.parametrize(("document", "file", "name"), sorted((each, *pair) for each in PLACES for pair in named_in(each)))
def test_what_a_document_names_is_defined_where_it_says(document: str, file: str, name: str) -> None:
    files = list(PLACES[document].glob(file))
    assert files
    assert any(is_defined(name, path.read_text(encoding="utf-8")) for path in files)


def test_the_first_lines_of_the_architecture_answer_a_strangers_questions() -> None:
    first = (DOCUMENTS / "architecture.md").read_text(encoding="utf-8").splitlines()[:60]
    for question in QUESTIONS:
        (answer,) = [line for line in first if line.startswith("| ") and question in line.split("|")[1]]
        assert _NAMED.search(answer), question


def test_a_name_that_is_only_used_or_spoken_of_is_not_defined() -> None:
    code = "# def gone\nvoid caller() {\n  gone(1);\n  x = gone(2);\n}\n// void gone() {\n"
    assert is_defined("caller", code)
    assert not is_defined("gone", code)
