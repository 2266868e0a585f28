"""A run's job and recipe: checked when built, the same when read back, and nothing else is taken for one."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.config import DType
from quire.errors import ConfigError
from quire.train.recipe import MAX_EPOCHS, Job, OptimizerKind, Recipe

COUNT = st.integers(1, 10**9)
POSITIVE = st.floats(0, exclude_min=True, allow_infinity=False)
RECIPES = st.builds(
    Recipe,
    batch_tokens=COUNT,
    accumulate=COUNT,
    steps=st.none() | COUNT,
    epochs=st.integers(1, MAX_EPOCHS),
    optimizer=st.sampled_from(OptimizerKind),
    learning_rate=POSITIVE,
    final_rate_share=st.floats(0, 1),
    warmup_steps=st.integers(0, 10**9),
    precision=st.sampled_from(DType),
    validation_share=st.floats(0, 0.5),
    save_minutes=POSITIVE,
    seed=st.integers(0, 2**64 - 1),
    compile=st.booleans(),
)
NAMES = st.lists(st.text(st.characters(codec="utf-8")), max_size=3).map(tuple)
JOBS = st.builds(
    Job,
    data=NAMES,
    validation=NAMES,
    model=st.none() | st.text(st.characters(codec="utf-8")),
    vocab_size=COUNT,
    max_context=st.none() | COUNT,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run") / "it.json"


@given(recipe=RECIPES)
def test_a_recipe_is_read_back_as_it_was(recipe: Recipe, path: Path) -> None:
    path.write_text(recipe.to_json())
    assert Recipe.from_file(path) == recipe
    assert Recipe.from_file(path).to_json() == recipe.to_json()


@given(job=JOBS)
def test_a_job_is_read_back_as_it_was(job: Job, path: Path) -> None:
    path.write_text(job.to_json())
    assert Job.from_file(path) == job


def test_a_job_from_before_validation_files_is_read(path: Path) -> None:
    path.write_text('{"data": ["a.txt"], "model": null, "config": null, "tokenizer": "t", "vocab_size": 9, "max_context": null}')
    assert Job.from_file(path) == Job(data=("a.txt",), tokenizer="t", vocab_size=9)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, 0) for name in ("batch_tokens", "accumulate", "steps", "epochs", "validate_every", "threads")),
        *((name, 0.0) for name in ("learning_rate", "clip_norm", "save_minutes")),
        *((name, float("inf")) for name in ("learning_rate", "clip_norm", "save_minutes", "weight_decay")),
        *((name, float("nan")) for name in ("learning_rate", "weight_decay", "final_rate_share", "validation_share")),
        *((name, 10**20) for name in ("batch_tokens", "accumulate", "steps", "warmup_steps", "validate_every", "seed")),
        ("epochs", MAX_EPOCHS + 1),
        ("threads", 100_000),
        ("warmup_steps", -1),
        ("seed", -1),
        ("seed", 2**64),
        ("threads", 1025),
        ("weight_decay", -0.1),
        ("final_rate_share", 1.1),
        ("validation_share", 0.6),
    ],
)
def test_a_number_out_of_range_is_named(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name} is out of range"):
        Recipe(**{name: value})


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"optimizer": "adamw"}', '{"optimizer": "sgd", "precision": "float32"}'])
@pytest.mark.parametrize("kind", [Recipe, Job])
def test_another_file_is_no_run(kind: type[Recipe] | type[Job], content: str, path: Path) -> None:
    path.write_text(content)
    with pytest.raises(ConfigError, match="no training run to continue"):
        kind.from_file(path)
    with pytest.raises(ConfigError, match="no training run to continue"):
        kind.from_file(path.with_name("missing.json"))


def test_every_number_decides_the_text_that_identifies_a_recipe() -> None:
    text = Recipe().to_json()
    assert all(f'"{field.name}"' in text for field in fields(Recipe))
