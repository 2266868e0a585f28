"""The shapes we benchmark are those of the published checkpoints, down to the last parameter."""

from __future__ import annotations

from math import prod
from pathlib import Path

import pytest

from quire.models.config_file import parse_config
from quire.models.families import build_spec
from quire.models.spec import ModelSpec

CONFIGS = Path(__file__).parents[3] / "benchmarks" / "configs"
PARAMETERS = {
    "gpt2-124m": 124_439_808,
    "llama-3.2-1b": 1_235_814_400,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "smollm2-135m": 134_515_008,
}


def spec_of(name: str) -> ModelSpec:
    return build_spec(parse_config((CONFIGS / f"{name}.json").read_bytes()))


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_shape_has_the_parameters_of_its_model(name: str) -> None:
    spec = spec_of(name)
    assert sum(prod(shape) for shape in spec.tensor_shapes().values()) == PARAMETERS[name]
    assert spec.is_head_tied


def test_every_shape_is_checked_here() -> None:
    assert {path.stem for path in CONFIGS.glob("*.json")} == set(PARAMETERS)


def test_long_wavelengths_of_llama_3_2_are_squeezed_by_its_factor() -> None:
    rope = spec_of("llama-3.2-1b").layers[0].rope
    assert rope is not None
    assert rope.inv_freq[0] == 1.0
    assert rope.inv_freq[-1] == pytest.approx(500_000.0 ** (-62 / 64) / 32, rel=1e-6)
