"""Errors: one tree, each also the built-in it resembles, each saying what to do."""

from __future__ import annotations

import pytest

import quire.errors as errors_module
from quire.errors import (
    CheckpointError,
    ConfigError,
    DuplicateRequestError,
    ExecutorError,
    ExecutorUnavailableError,
    IntegrityError,
    ModelError,
    ModelNotFoundError,
    QuireError,
    RequestError,
    SamplingError,
)

ALL = tuple(kind for kind in vars(errors_module).values() if isinstance(kind, type) and issubclass(kind, QuireError))
PLAIN = tuple(kind for kind in ALL if kind.__init__ is QuireError.__init__)


def test_every_error_is_drawn_in_the_tree() -> None:
    for kind in ALL:
        assert kind.__name__ in (errors_module.__doc__ or "")


@pytest.mark.parametrize("kind", PLAIN, ids=lambda kind: kind.__name__)
def test_message_says_what_was_given_what_is_allowed_and_what_to_do(kind: type[QuireError]) -> None:
    error = kind("The cup is full", given=7, limit=5, next_step="Drink.")
    assert str(error) == "The cup is full (given: 7; limit: 5). Drink."
    assert (error.problem, error.given, error.limit, error.next_step) == ("The cup is full", 7, 5, "Drink.")


@pytest.mark.parametrize(
    ("facts", "text"),
    [({}, "Full. Drink."), ({"given": 0}, "Full (given: 0). Drink."), ({"limit": ""}, "Full (limit: ). Drink.")],
)
def test_only_facts_that_are_known_are_shown(facts: dict[str, object], text: str) -> None:
    assert str(QuireError("Full", next_step="Drink.", **facts)) == text


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (ConfigError, ValueError),
        (ModelError, ValueError),
        (CheckpointError, ModelError),
        (ModelNotFoundError, FileNotFoundError),
        (RequestError, ValueError),
        (SamplingError, RequestError),
        (DuplicateRequestError, KeyError),
        (IntegrityError, RuntimeError),
        (ExecutorError, RuntimeError),
        (ExecutorUnavailableError, ExecutorError),
    ],
)
def test_errors_can_be_caught_as_what_they_resemble(kind: type[QuireError], builtin: type[Exception]) -> None:
    with pytest.raises(builtin):
        raise kind("x", next_step="y")


def test_next_step_cannot_be_forgotten() -> None:
    with pytest.raises(TypeError, match="next_step"):
        QuireError("x")
