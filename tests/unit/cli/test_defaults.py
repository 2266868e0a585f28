"""Where sampling comes from: the user, then generation_config.json, then greedy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quire.cli.defaults import SamplingDefaults, read_defaults
from quire.cli.options import SamplingOptions
from quire.errors import ModelError, SamplingError
from quire.request import Draw, Greedy, SamplingParams


def _params(directory: Path, content: object, **options: object) -> SamplingParams:
    (directory / "generation_config.json").write_text(json.dumps(content))
    return read_defaults(directory).params(SamplingOptions(**options))  # type: ignore[arg-type]


def test_model_without_a_recommendation_is_greedy_until_the_context_is_full(tmp_path: Path) -> None:
    assert read_defaults(tmp_path) == SamplingDefaults()
    params = read_defaults(tmp_path).params(SamplingOptions())
    assert (params.method, params.max_tokens) == (Greedy(), None)


def test_recommendation_is_followed(tmp_path: Path) -> None:
    params = _params(tmp_path, {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "eos_token_id": 3})
    assert params.method == Draw(temperature=0.6, top_k=20, top_p=0.9, min_p=0.0)


def test_recommendation_without_do_sample_is_greedy(tmp_path: Path) -> None:
    params = _params(tmp_path, {"temperature": 0.6, "top_k": 20, "repetition_penalty": 1.1})
    assert (params.method, params.repetition_penalty) == (Greedy(), 1.1)


def test_do_sample_alone_draws_at_temperature_one(tmp_path: Path) -> None:
    assert _params(tmp_path, {"do_sample": True}).temperature == 1.0


def test_users_word_comes_first(tmp_path: Path) -> None:
    params = _params(tmp_path, {"do_sample": True, "temperature": 0.6, "top_k": 20}, temperature=1.5, max_tokens=7, stop=("x",))
    assert (params.temperature, params.top_k, params.max_tokens, params.stop) == (1.5, 20, 7, ("x",))


def test_users_greedy_drops_the_models_numbers_for_drawing(tmp_path: Path) -> None:
    params = _params(tmp_path, {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.5}, temperature=0.0)
    assert params.method == Greedy()


def test_users_contradiction_is_refused_and_not_mended(tmp_path: Path) -> None:
    with pytest.raises(SamplingError, match="ignores top_p"):
        read_defaults(tmp_path).params(SamplingOptions(top_p=0.5))


@pytest.mark.parametrize(
    "asked",
    [
        {"no_repeat_ngram_size": 3},
        {"num_beams": 4},
        {"suppress_tokens": [5]},
        {"begin_suppress_tokens": [0]},
        {"forced_bos_token_id": 0},
        {"forced_eos_token_id": 2},
        {"max_new_tokens": 2048},
        {"do_sample": True, "typical_p": 0.9},
    ],
)
def test_what_is_asked_for_and_not_applied_is_named(tmp_path: Path, asked: dict[str, object]) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(asked))
    assert read_defaults(tmp_path).unapplied == tuple(name for name in asked if name != "do_sample")


def test_fields_that_ask_for_nothing_are_not_named(tmp_path: Path) -> None:
    neutral = {"num_beams": 1, "no_repeat_ngram_size": 0, "suppress_tokens": [], "forced_eos_token_id": None, "typical_p": 0.9}
    (tmp_path / "generation_config.json").write_text(json.dumps(neutral | {"eos_token_id": 3, "pad_token_id": 0}))
    assert read_defaults(tmp_path).unapplied == ()


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"do_sample": true, "temperature": NaN}', '{"do_sample": true, "temperature": "hot"}', "\0"]
)
def test_damaged_recommendation_is_a_model_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(ModelError, match=r"generation_config\.json"):
        read_defaults(tmp_path)
