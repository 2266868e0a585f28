"""The context that rope scaling gives is the one that is served, as transformers and vLLM read the same fields."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from quire.errors import ConfigError
from quire.models.checkpoint import load_checkpoint
from quire.models.config_file import Config
from quire.models.families import build_spec
from quire.models.families.sizes import MAX_CONTEXT
from support.configs import CONFIGS, spec_of
from support.safetensors_writer import safetensors_bytes
from support.stored import stored_tensors

ORIGINAL = "original_max_position_embeddings"
LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 2, "long_factor": [2.0] * 2}
ROTATING = ("llama", "mistral", "qwen2", "qwen3", "olmo2")  # whole heads, one rotation in all layers


@pytest.mark.parametrize(
    ("scaling", "context"),
    [
        ({"rope_type": "default"}, 512),
        ({"type": "default"}, 512),
        ({}, 512),
        (None, 512),
        ({"rope_type": "linear", "factor": 4.0}, 2048),
        ({"rope_type": "linear", "factor": 1.5}, 768),
        ({"rope_type": "yarn", "factor": 4.0}, 2048),
        ({"rope_type": "yarn", "factor": 4.0, ORIGINAL: 512}, 2048),
        ({"rope_type": "yarn", "factor": 4.0, ORIGINAL: 128}, 512),
        ({"rope_type": "yarn", "factor": 8.0, ORIGINAL: 128}, 1024),
        ({"rope_type": "yarn", "factor": 2.5, ORIGINAL: 500}, 1250),
        ({"rope_type": "yarn", "factor": None, ORIGINAL: 128}, 512),
        ({"rope_type": "yarn", "factor": 2.0**40}, MAX_CONTEXT),
        ({**LLAMA3, "factor": 8.0, ORIGINAL: 64}, 512),
        ({"rope_type": "dynamic", "factor": 4.0}, 512),
    ],
)
@pytest.mark.parametrize("family", ROTATING)
@pytest.mark.parametrize("style", ["rope_scaling", "rope_parameters"])
def test_usable_context_of_each_scaling(family: str, style: str, scaling: dict[str, Any] | None, context: int) -> None:
    assert spec_of(family, **{style: scaling}).max_context == context


@pytest.mark.parametrize(
    ("scaling", "context"), [({"rope_type": "yarn", "factor": 4.0}, 2048), ({"type": "linear", "factor": 2}, 1024)]
)
def test_less_may_be_chosen_and_more_may_not(scaling: dict[str, Any], context: int) -> None:
    for chosen in (2, 512, 513, context):
        assert spec_of("llama", chosen, rope_scaling=scaling).max_context == chosen
    with pytest.raises(ConfigError, match=f"given: {context + 1}; limit: 2 to {context} tokens"):
        spec_of("llama", context + 1, rope_scaling=scaling)


def test_a_shorter_context_leaves_the_frequencies_alone_where_they_do_not_depend_on_it() -> None:
    for scaling in ({"rope_type": "yarn", "factor": 4.0}, {"rope_type": "linear", "factor": 2.0}):
        assert spec_of("llama", 100, rope_scaling=scaling).layers == spec_of("llama", rope_scaling=scaling).layers


def test_the_original_context_may_stand_outside_the_scaling() -> None:
    inside = {"rope_type": "yarn", "factor": 4.0, ORIGINAL: 256}
    outside = {"rope_type": "yarn", "factor": 4.0}
    assert spec_of("llama", rope_scaling=outside, **{ORIGINAL: 256}) == spec_of("llama", rope_scaling=inside)


def test_gemma3_says_the_scaled_context_itself() -> None:
    assert spec_of("gemma3_text", rope_scaling={"rope_type": "linear", "factor": 8.0}).max_context == 512


def test_longrope_of_any_family_chooses_its_divisors_by_the_context_it_serves() -> None:
    scaling = {**LONGROPE, ORIGINAL: 128}
    long, short = spec_of("llama", rope_scaling=scaling), spec_of("llama", 128, rope_scaling=scaling)
    assert (long.max_context, short.max_context) == (512, 128)
    assert long.layers[0].rope is not None
    assert short.layers[0].rope is not None
    assert long.layers[0].rope.inv_freq == tuple(value / 2 for value in short.layers[0].rope.inv_freq)


@pytest.mark.parametrize("family", [*ROTATING, "gemma3_text"])
def test_dynamic_scaling_is_served_where_it_changes_nothing_and_refused_beyond(
    family: str, caplog: pytest.LogCaptureFixture
) -> None:
    dynamic = {"rope_scaling": {"type": "dynamic", "factor": 4.0}}
    with caplog.at_level(logging.WARNING, "quire"):
        assert spec_of(family, **dynamic) == spec_of(family)
    (record,) = caplog.records
    assert "rope_scaling.factor is not used" in record.getMessage()
    assert "512 tokens" in record.getMessage()
    with pytest.raises(ConfigError, match=r"dynamic NTK rope scaling changes every frequency.*given: 513; limit: 2 to 512"):
        spec_of(family, 513, **dynamic)


def test_fields_that_only_other_engines_read_are_ignored_aloud(caplog: pytest.LogCaptureFixture) -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0}
    with caplog.at_level(logging.WARNING, "quire"):
        assert spec_of("llama", rope_scaling={**yarn, "attn_factor": 1.0}) == spec_of("llama", rope_scaling=yarn)
        assert not caplog.records
        assert spec_of("llama", rope_scaling={**yarn, "attn_factor": 0.8}) == spec_of("llama", rope_scaling=yarn)
    assert "rope_scaling.attn_factor is not used" in caplog.text


def test_a_warning_is_given_once_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    code = {"AutoModelForCausalLM": "modeling_x.XForCausalLM"}
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["llama"] | {"auto_map": code}))
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(stored_tensors("llama")))
    checkpoint = load_checkpoint(tmp_path, max_context=100)
    assert (checkpoint.spec.max_context, checkpoint.model_context) == (100, 512)
    assert len(caplog.records) == 1


def test_a_config_without_positions_has_those_of_its_class() -> None:
    fields = {name: value for name, value in CONFIGS["llama"].items() if name != "max_position_embeddings"}
    assert build_spec(Config(fields | {"max_sequence_length": 64})).max_context == 2048
