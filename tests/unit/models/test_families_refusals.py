"""A config field is honored, harmless, or refused by name; nothing is ignored and nothing absurd is built."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from quire.errors import ModelError, ModelNotFoundError, UnknownArchitectureError, UnsupportedConfigError
from quire.models.config_file import HARMLESS_FIELDS, MAX_CONFIG_BYTES, Config, parse_config, read_config
from quire.models.families import FAMILIES, family_for
from support.configs import CONFIGS, spec_of

LLAMA_SIZES = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size", "vocab_size")
BAD_SIZES: list[Any] = [-1, 0, True, 1.5, "56", float(2**40), 2**40, 10**30, [56], {}]


@pytest.mark.parametrize("family", CONFIGS)
def test_an_unknown_field_is_named(family: str) -> None:
    with pytest.raises(UnsupportedConfigError, match="num_experts=8"):
        spec_of(family, num_experts=8)


@pytest.mark.parametrize("family", CONFIGS)
def test_harmless_fields_change_nothing(family: str) -> None:
    assert spec_of(family, **dict.fromkeys(sorted(HARMLESS_FIELDS), 0.125)) == spec_of(family)


@pytest.mark.parametrize("value", BAD_SIZES)
@pytest.mark.parametrize("field", [*LLAMA_SIZES, "max_position_embeddings", "num_key_value_heads", "head_dim"])
def test_absurd_sizes_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(UnsupportedConfigError, match=field):
        spec_of("llama", **{field: value})


@pytest.mark.parametrize("value", [-1, 0, True, 2**40, "7"])
@pytest.mark.parametrize("field", ["n_embd", "n_head", "n_layer", "n_positions", "n_inner", "vocab_size"])
def test_absurd_gpt2_sizes_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(UnsupportedConfigError, match=field):
        spec_of("gpt2", **{field: value})


@pytest.mark.parametrize("field", [*LLAMA_SIZES, "rms_norm_eps", "max_position_embeddings", "rope_theta", "hidden_act"])
def test_null_is_refused_where_it_means_nothing(field: str) -> None:
    with pytest.raises(UnsupportedConfigError, match=f"{field} must not be null"):
        spec_of("llama", **{field: None})


@pytest.mark.parametrize(
    ("family", "changes", "problem"),
    [
        ("llama", {"num_key_value_heads": 3}, "do not divide the query heads"),
        ("llama", {"head_dim": 23}, "must be even"),
        ("llama", {"num_attention_heads": 15, "num_key_value_heads": 15}, "do not divide the hidden size"),
        ("gpt2", {"n_head": 5}, "do not divide the hidden size"),
        ("llama", {"hidden_act": "quick_gelu"}, "hidden_act .*quick_gelu"),
        ("llama", {"rms_norm_eps": 0}, "rms_norm_eps"),
        ("llama", {"rms_norm_eps": -1e-6}, "rms_norm_eps"),
        ("llama", {"attention_bias": 1}, "attention_bias"),
        ("llama", {"is_encoder_decoder": True}, "is_encoder_decoder"),
        ("llama", {"model_type": "mistral"}, "model_type"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("llama", {"quantization": {"bits": 7, "group_size": 64}}, "quantization.bits"),
        ("llama", {"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ("llama", {"parallel_attn": True}, "parallel_attn"),
        ("llama", {"alibi": True}, "alibi"),
        ("llama", {"activation": "geglu"}, "activation"),
        ("llama", {"use_sliding_window": True}, "use_sliding_window"),
        ("gpt2", {"n_special": 40}, "n_special"),
        ("gpt2", {"scale_attn_weights": None}, "scale_attn_weights must not be null"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("llama", {"sliding_window": 64}, "sliding_window"),
        ("mistral", {"attention_bias": True}, "attention_bias"),
        ("mistral", {"layer_types": ["full_attention"] * 4}, "contradicts sliding_window"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 4}, "layer_types"),
        ("qwen2", {"layer_types": ["full_attention"] * 3}, "layer_types"),
        ("qwen2", {"layer_types": ["linear_attention"] * 4}, "layer_types"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
        ("gpt2", {"n_ctx": 256}, "n_ctx"),
        ("phi3", {"partial_rotary_factor": 1.5, "rope_scaling": None}, "partial_rotary_factor"),
        ("phi3", {"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 12}}, "long_factor"),
        ("phi3", {"rope_scaling": {"type": "su", "short_factor": [1.0] * 11, "long_factor": [1.0] * 11}}, "per rotated pair"),
        ("phi3", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling.type"),
        ("phi3", {"rope_scaling": None, "partial_rotary_factor": None}, "partial_rotary_factor must not be null"),
        ("gemma3_text", {"sliding_window_pattern": None}, "sliding_window_pattern"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3_text", {"sliding_window": None}, "sliding_window"),
        ("gemma3_text", {"rope_theta": None, "rope_parameters": {"rope_theta": 5.0}}, "rope_local_base_freq|rope_theta"),
    ],
)
def test_what_we_cannot_honor_is_refused(family: str, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(UnsupportedConfigError, match=problem):
        spec_of(family, **changes)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"rope_scaling": {"type": "dynamic"}}, "rope_scaling.factor is missing"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling.factor is missing"),
        ({"rope_scaling": {"type": "yarn", "original_max_position_embeddings": 128}}, "rope_scaling.factor is missing"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "finetuned": 3}}, "rope_scaling.finetuned"),
        ({"rope_scaling": {"type": "llama3", "low_freq_factor": 1, "high_freq_factor": 4}}, "rope_scaling.factor is missing"),
        ({"rope_scaling": {"type": "llama3", "factor": 8, "high_freq_factor": 4}}, "low_freq_factor is missing"),
        ({"rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 1}}, "high_freq_factor is missing"),
        ({"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}}, "per rotated pair"),
        ({"rope_scaling": {"type": "longrope", "long_factor": [1.0, 1.0]}}, "short_factor"),
        ({"rope_scaling": {"factor": 2.0}}, "rope_scaling.factor"),
        ({"rope_scaling": {"type": "linear", "factor": None}}, "rope_scaling.factor must not be null"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [16]}}, "rope_scaling.type"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor is missing"),
        ({"rope_scaling": {"type": "linear", "factor": -2}}, "rope_scaling.factor"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "beta_fast": 32}}, "rope_scaling.beta_fast"),
        ({"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2.0}}, "contradicts"),
        ({"rope_scaling": "linear"}, "JSON object"),
        ({"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": "linear", "factor": 2.0}}, "together with"),
        ({"rope_theta": 1e6, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, "rope_theta differs"),
        ({"rope_theta": 1}, "rope_theta must be above 1"),
        (
            {"rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}},
            "high_freq_factor must be above",
        ),
    ],
)
def test_rope_settings_we_cannot_honor_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(UnsupportedConfigError, match=problem):
        spec_of("llama", **changes)


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("field", ["bos_token_id", "eos_token_id"])
@pytest.mark.parametrize("value", [251, -1, [3, 251], "</s>", True, [2.0]])
def test_ids_beyond_the_vocabulary_are_refused_with_the_numbers(family: str, field: str, value: Any) -> None:
    with pytest.raises(UnsupportedConfigError, match=rf"{field} is not a token .*limit: 0 to 250, for a vocab_size of 251"):
        spec_of(family, **{field: value})


@pytest.mark.parametrize("value", [None, 0, 250, [3, 250], []])
def test_ids_within_the_vocabulary_are_accepted(value: Any) -> None:
    assert spec_of("llama", eos_token_id=value, bos_token_id=value, pad_token_id=-1) == spec_of("llama")


@pytest.mark.parametrize("family", CONFIGS)
def test_code_of_a_known_architecture_is_ignored_aloud(family: str, caplog: pytest.LogCaptureFixture) -> None:
    code = {"AutoConfig": "configuration_x.XConfig", "AutoModelForCausalLM": "modeling_x.XForCausalLM"}
    with caplog.at_level(logging.WARNING, "quire"):
        assert spec_of(family, auto_map=code) == spec_of(family)
    (record,) = caplog.records
    assert "auto_map is ignored" in record.getMessage()
    assert "never runs code" in record.getMessage()


def test_an_unknown_architecture_with_code_is_refused_for_its_code() -> None:
    with pytest.raises(UnsupportedConfigError, match="never runs"):
        family_for(Config({"architectures": ["EvilForCausalLM"], "auto_map": {"AutoModel": "evil.Model"}}))


@pytest.mark.parametrize("family", CONFIGS)
def test_a_file_without_architectures_means_that_of_its_model_type(family: str) -> None:
    assert spec_of(family, architectures=None) == spec_of(family)


def test_an_unknown_architecture_lists_the_known_ones() -> None:
    with pytest.raises(UnknownArchitectureError) as caught:
        family_for(Config({"architectures": ["MambaForCausalLM"]}))
    for family in FAMILIES:
        assert family.architectures[0] in str(caught.value)


def test_gemma3_with_a_vision_tower_is_refused_with_its_reason() -> None:
    with pytest.raises(UnsupportedConfigError, match="vision tower"):
        family_for(Config({"architectures": ["Gemma3ForConditionalGeneration"]}))


@pytest.mark.parametrize("architectures", [None, [], ["A", "B"], "LlamaForCausalLM", [3]])
def test_there_must_be_one_architecture(architectures: Any) -> None:
    with pytest.raises(UnsupportedConfigError, match="architectures"):
        family_for(Config({"architectures": architectures}))


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"a": NaN}', b'{"a": 1, "a": 2}', b"\xff\xfe", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"],
)
def test_what_is_not_one_json_object_is_refused(content: bytes) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        parse_config(content)


@pytest.mark.parametrize("field", ["rms_norm_eps", "rope_theta"])
@pytest.mark.parametrize("value", [10**400, -(10**4000)])
def test_an_integer_beyond_every_float_is_refused(field: str, value: int) -> None:
    with pytest.raises(UnsupportedConfigError, match=field):
        spec_of("llama", **{field: value})


def test_an_infinite_number_is_refused() -> None:
    text = json.dumps(CONFIGS["llama"]).replace("1e-06", "1e999")
    assert "1e999" in text
    with pytest.raises(UnsupportedConfigError, match="rms_norm_eps"):
        parse_config(text.encode()).number("rms_norm_eps")


def test_error_messages_stay_short_whatever_the_file_holds() -> None:
    with pytest.raises(UnsupportedConfigError) as caught:
        spec_of("llama", hidden_act="x" * 10_000, **{f"field_{i}": "y" * 1000 for i in range(100)})
    assert len(str(caught.value)) < 2000


def test_a_directory_without_a_usable_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        read_config(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"no config\.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_bytes(b" " * (MAX_CONFIG_BYTES + 1))
    with pytest.raises(ModelError, match="too large"):
        read_config(tmp_path)


def test_a_config_is_read_from_its_directory(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["qwen3"]))
    assert read_config(tmp_path).architecture() == "Qwen3ForCausalLM"
