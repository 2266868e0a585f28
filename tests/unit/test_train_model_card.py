"""The model card says what the spec, the curve and the recipe say, and stays readable Markdown."""

from __future__ import annotations

from dataclasses import replace

import pytest

from quire.errors import ConfigError
from quire.train.curve import CurveRow
from quire.train.model_card import Material, ModelFacts, num_parameters, render_card
from support.configs import spec_of
from support.weights import random_weights


def row(step: int, validation_loss: float | None) -> CurveRow:
    return CurveRow(
        step=step,
        tokens=step * 1000,
        train_loss=4.0 / step,
        validation_loss=validation_loss,
        learning_rate=1e-3,
        tokens_per_second=50.0,
        seconds=step * 2000.0,
    )


def facts() -> ModelFacts:
    return ModelFacts(
        name="Tiny",
        summary="Knows nothing.",
        spec=spec_of("llama"),
        dtype="bfloat16",
        material=Material.CONVERSATIONS,
        rows=[row(1, None), row(2, 0.5), row(4, 1.0)],
        recipe={"optimizer": "adamw", "seed": 0},
    )


def cells(card: str) -> dict[str, str]:
    """Returns the rows of all two-column tables."""
    lines = [line.removeprefix("| ").removesuffix(" |").split(" | ", 1) for line in card.splitlines() if line.startswith("| ")]
    return {line[0]: line[1] for line in lines if len(line) == 2}


def test_shape_is_that_of_the_spec() -> None:
    found = cells(render_card(facts()))
    spec = facts().spec
    assert found["family"] == "Llama"
    assert found["heads"] == "14 query, 2 key/value, 4 elements each"
    assert found["vocabulary"] == "251 tokens, separate head"
    assert found["KV cache"] == f"{2 * spec.num_layers * 2 * 4 * 2} B per token in bfloat16"


@pytest.mark.parametrize("is_tied", [False, True])
def test_every_trained_value_counts_once(is_tied: bool) -> None:
    spec = spec_of("llama", tie_word_embeddings=is_tied)
    assert num_parameters(spec) == sum(tensor.bits.size for tensor in random_weights(spec).values())


def test_losses_and_time_are_those_of_the_curve() -> None:
    found = cells(render_card(facts()))
    assert found["steps"] == "4"
    assert found["tokens seen"] == "4,000"
    assert found["time"] == "2 h 13 min"
    assert found["speed"] == "50 tokens/s"
    assert found["training loss"].startswith("2.3333 nats")
    assert found["validation loss"] == "1.0000 nats per token at step 4"
    assert found["lowest validation loss"] == "0.5000 at step 2"


def test_lowest_validation_loss_is_told_only_where_it_is_not_the_last() -> None:
    falling = replace(facts(), rows=[row(1, 2.0), row(2, 1.0)])
    assert "lowest validation loss" not in cells(render_card(falling))
    assert cells(render_card(replace(facts(), rows=[row(1, None)])))["validation loss"] == "not measured"


def test_recipe_corpus_and_own_sections_appear_in_order() -> None:
    facts_with_all = replace(
        facts(),
        corpus={"generator": "version 3", "kinds": "a|b"},
        sections={"Measured": "All of it.\n", "Limits": "Many."},
        curve_image="curve.png",
    )
    card = render_card(facts_with_all)
    headings = [line for line in card.splitlines() if line.startswith("#")]
    sections = ("Model", "Training", "Corpus", "Recipe", "Measured", "Limits", "How to run it")
    assert headings == ["# Tiny", *(f"## {name}" for name in sections)]
    assert "(curve.png)" in card
    assert "| kinds | a\\|b |" in card
    assert cells(card)["optimizer"] == "adamw"


def test_usage_fits_what_the_model_learned() -> None:
    assert "quire chat" in render_card(facts())
    assert "quire chat" not in render_card(replace(facts(), material=Material.TEXT))
    assert "--raw" in render_card(replace(facts(), material=Material.TEXT))


def test_model_that_never_took_a_step_has_no_card() -> None:
    with pytest.raises(ConfigError, match="without a training step"):
        render_card(replace(facts(), rows=[]))
