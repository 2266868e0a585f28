"""Names of other engines: each is answered with a name of ours that exists, or with the reason why there is none."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from quire import LLM, SamplingParams
from quire.cli.run import run
from quire.counterparts import _ABSENT, _NOTES, _RENAMED, advice_for, counterpart_of
from quire.engine.options import EngineOptions, ModelOptions

ENGINE = {*ModelOptions.__annotations__, *EngineOptions.__annotations__}
SAMPLING = {field.name for field in dataclasses.fields(SamplingParams)}
OF_HOME = {
    "LLM": ENGINE | {"model", "stream", "chat", "score"},
    "SamplingParams": SAMPLING,
    "generate": set(inspect.signature(LLM.generate).parameters),
    "run": {"prompt", *(parameter.name for parameter in run.params)} | {"json"},
}


@pytest.mark.parametrize("target", _RENAMED)
def test_what_is_named_exists(target: str) -> None:
    home, _, name = target.partition(".")
    assert name in OF_HOME[home]


def test_every_name_has_one_answer() -> None:
    names = [name for table in (_RENAMED, _ABSENT) for words in table.values() for name in words.split()]
    assert sorted(names) == sorted(set(names))
    assert not set(names) & (ENGINE | SAMPLING)
    assert _NOTES.keys() <= set(names)


def test_every_name_of_ours_is_known_in_the_wrong_place() -> None:
    for name in ENGINE:
        assert f"Use {name} of LLM" in advice_for(name, SAMPLING, "SamplingParams")
    for name in SAMPLING:
        found = counterpart_of(name)
        if found is not None:
            assert f"Use {name} of SamplingParams" in advice_for(name, ENGINE, "LLM")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("max_model_len", "Quire calls it max_context."),
        ("MAX_MODEL_LEN", "Quire calls it max_context."),
        ("kv_memroy", "Did you mean kv_memory?"),
        ("swap_space", "no counterpart"),
        ("frobnicate", "The options of LLM are block_size,"),
    ],
)
def test_a_name_is_answered(name: str, advice: str) -> None:
    assert advice in advice_for(name, ENGINE, "LLM")
