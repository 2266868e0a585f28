"""A field that `config.json` leaves out, or gives as null, means to every family what it means to its class in `transformers`."""

from __future__ import annotations

import json
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from quire.errors import UnsupportedConfigError
from quire.models.config_file import Config
from quire.models.families import build_spec
from quire.models.families.defaults import DEFAULTS
from quire.models.families.sizes import ACTIVATIONS
from quire.models.spec import ModelSpec
from support.configs import CONFIGS
from support.published import PUBLISHED, Published

WHOLE: dict[str, Any] = {
    "vocab_size": 251,
    "hidden_size": 256,
    "intermediate_size": 100,
    "num_hidden_layers": 3,
    "num_attention_heads": 64,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "hidden_act": "gelu",
    "hidden_activation": "relu",
    "max_position_embeddings": 300,
    "original_max_position_embeddings": 200,
    "rms_norm_eps": 0.25,
    "tie_word_embeddings": True,
    "attention_bias": True,
    "mlp_bias": True,
    "rope_theta": 500.0,
    "rope_local_base_freq": 50.0,
    "use_sliding_window": True,
    "sliding_window": 20,
    "max_window_layers": 1,
    "sliding_window_pattern": 2,
    "query_pre_attn_scalar": 9,
    "final_logit_softcapping": 7.0,
    "n_positions": 300,
    "n_embd": 192,
    "n_layer": 3,
    "n_head": 32,
    "n_inner": 100,
    "activation_function": "relu",
    "layer_norm_epsilon": 0.25,
    "scale_attn_weights": False,
    "scale_attn_by_inverse_layer_idx": False,
}
"""No value is the default of a class that has the field, except where another would be refused or the class has none."""

ROTARY_FIELDS = {"gpt2": set(), "gemma3_text": {"rope_theta", "rope_local_base_freq"}}
CASES = [
    (family, field)
    for family, defaults in DEFAULTS.items()
    for field in sorted({*defaults, *ROTARY_FIELDS.get(family, {"rope_theta"})})
]
GENEROUS = {"num_key_value_heads", "head_dim"}
"""Null means here what it means to most classes, also where a class refuses null."""


def whole_config(family: str) -> dict[str, Any]:
    names = {*DEFAULTS[family], *ROTARY_FIELDS.get(family, {"rope_theta"})}
    fixed = {"architectures": CONFIGS[family]["architectures"], "model_type": family, "pad_token_id": None}
    return fixed | {name: WHOLE[name] for name in names}


def their_config(fields: dict[str, Any]) -> Any:
    return transformers.CONFIG_MAPPING[fields["model_type"]].from_dict(dict(fields))


def their_facts(config: Any) -> dict[str, Any]:
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    scales = {module.scaling for module in model.modules() if type(module).__name__.endswith("Attention")}
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "heads": config.num_attention_heads,
        "kv heads": getattr(config, "num_key_value_heads", config.num_attention_heads),
        "context": config.max_position_embeddings,
        "windows": their_windows(config),
        "eps": getattr(config, "rms_norm_eps", None) or config.layer_norm_epsilon,
        "activation": ACTIVATIONS[their_activation(config)],
        "tied": config.tie_word_embeddings,
        "scales": scales,
        "softcap": getattr(config, "final_logit_softcapping", None),
        "thetas": their_thetas(config),
    }


def their_windows(config: Any) -> list[int | None]:
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    if window is None and "sliding_attention" in (types or ()):
        raise ValueError("the model class finds no window when it runs")
    types = types or ["sliding_attention"] * config.num_hidden_layers
    return [window if kind == "sliding_attention" else None for kind in types]


def their_activation(config: Any) -> str:
    names = ("hidden_activation", "hidden_act", "activation_function")
    return str(next(getattr(config, name) for name in names if hasattr(config, name)))


def their_thetas(config: Any) -> list[float]:
    if config.model_type == "gpt2":
        return []
    if config.model_type == "gemma3_text":
        return sorted({config.rope_parameters[kind]["rope_theta"] for kind in config.layer_types})
    return [config.rope_parameters["rope_theta"]]


def our_facts(spec: ModelSpec) -> dict[str, Any]:
    ropes = {layer.rope for layer in spec.layers if layer.rope is not None}
    return {
        "parameters": sum(prod(shape) for shape in spec.tensor_shapes().values()),
        "heads": spec.num_heads,
        "kv heads": spec.num_kv_heads,
        "context": spec.max_context,
        "windows": [layer.sliding_window for layer in spec.layers],
        "eps": spec.norm_eps,
        "activation": spec.layers[0].ffn.activation,
        "tied": spec.is_head_tied,
        "scales": {spec.attention_scale},
        "softcap": spec.logit_softcap,
        "thetas": sorted(rope.inv_freq[1] ** (-rope.rotary_dim / 2) for rope in ropes),
    }


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    np.testing.assert_allclose(ours.pop("thetas"), theirs.pop("thetas"), rtol=1e-5)
    assert ours == theirs


@pytest.mark.parametrize("family", DEFAULTS)
def test_every_default_is_that_of_the_class(family: str) -> None:
    theirs = transformers.CONFIG_MAPPING[family]()
    unsettled = {"num_key_value_heads", "head_dim", "sliding_window", "sliding_window_pattern"}
    for name in DEFAULTS[family].keys() - unsettled:
        assert DEFAULTS[family][name] == getattr(theirs, name), name


@pytest.mark.parametrize(("family", "field"), CASES)
def test_an_absent_field_means_the_default_of_its_class(family: str, field: str) -> None:
    fields = whole_config(family)
    del fields[field]
    assert_same(our_facts(build_spec(Config(fields))), their_facts(their_config(fields)))


@pytest.mark.parametrize(("family", "field"), CASES)
def test_null_means_what_it_means_to_the_class(family: str, field: str) -> None:
    fields = whole_config(family) | {field: None}
    try:
        theirs = their_facts(their_config(fields))
    except Exception:
        if field in GENEROUS:
            fields = {**fields, field: {"num_key_value_heads": 64, "head_dim": 4}[field]}
            assert build_spec(Config(fields | {field: None})) == build_spec(Config(fields))
            return
        with pytest.raises(UnsupportedConfigError, match=field):
            build_spec(Config(fields))
        return
    assert_same(our_facts(build_spec(Config(fields))), theirs)


STILL_READ = [published for published in PUBLISHED if "first" not in published.name]
"""transformers no longer reads longrope by its first name."""


@pytest.mark.parametrize("published", STILL_READ, ids=lambda published: published.name)
def test_a_published_config_means_the_model_of_transformers(published: Published) -> None:
    depth = "n_layer" if "n_layer" in published.fields else "num_hidden_layers"
    fields = json.loads(json.dumps(published.fields)) | {depth: 2, "pad_token_id": None}
    if "layer_types" in fields:
        fields["layer_types"] = fields["layer_types"][-2:]
    ours, theirs = our_facts(build_spec(Config(fields))), their_facts(their_config(fields))
    for scaled in ("context", "thetas"):  # see test_rope_parity
        del ours[scaled], theirs[scaled]
    assert ours == theirs
