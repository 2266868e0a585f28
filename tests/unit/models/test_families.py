"""What each family makes of its config: the facts of the architecture, and where its tensors lie."""

from __future__ import annotations

import json
from typing import Any

import pytest

from quire.errors import ConfigError
from quire.models.config_file import Config
from quire.models.families import FAMILIES, family_for
from quire.models.source import TensorSource
from quire.models.spec import Activation, DenseFfn, FfnKind, NormKind, NormPlacement, QKNorm
from support.configs import CONFIGS, spec_of


@pytest.mark.parametrize("family", CONFIGS)
def test_every_canonical_tensor_has_one_source(family: str) -> None:
    spec = spec_of(family)
    sources = family_for(Config(CONFIGS[family])).sources(spec)
    assert list(sources) == list(spec.tensor_shapes())
    places = [(source.name, source.rows) for source in sources.values()]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("family", CONFIGS)
def test_a_tied_head_has_no_tensor(family: str) -> None:
    assert "head.weight" not in spec_of(family, tie_word_embeddings=True).tensor_shapes()
    assert "head.weight" in spec_of(family, tie_word_embeddings=False).tensor_shapes()


@pytest.mark.parametrize("family", CONFIGS)
def test_fused_parts_tile_their_matrix(family: str) -> None:
    spec = spec_of(family)
    sources = family_for(Config(CONFIGS[family])).sources(spec)
    parts: dict[str, list[tuple[int, int]]] = {}
    for canonical, source in sources.items():
        if source.rows is not None:
            assert source.rows[1] - source.rows[0] == spec.tensor_shapes()[canonical][0]
            parts.setdefault(source.name, []).append(source.rows)
    for rows in parts.values():
        stops = [0, *(stop for _, stop in rows)]
        assert [start for start, _ in rows] == stops[:-1]


@pytest.mark.parametrize("family", CONFIGS)
def test_null_in_fields_of_other_models_says_nothing(family: str) -> None:
    assert spec_of(family, quantization_config=None, never_heard_of=None) == spec_of(family)


@pytest.mark.parametrize("family", CONFIGS)
def test_a_shorter_context_is_granted_and_a_longer_one_refused(family: str) -> None:
    spec = spec_of(family, 100)
    assert spec.max_context == (512 if spec.has_learned_positions else 100)
    with pytest.raises(ConfigError, match="given: 513; limit: 2 to 512"):
        spec_of(family, 513)


def test_known_families_are_those_with_a_config_here() -> None:
    assert {family.name for family in FAMILIES} == CONFIGS.keys()


def test_weights_of_a_norm_are_stored_without_their_one_in_gemma3_only() -> None:
    for family in FAMILIES:
        sources = family.sources(spec_of(family.name))
        shifted = {name for name, source in sources.items() if source.offset}
        norms = {name for name in sources if name.endswith("norm.weight")}
        assert shifted == (norms if family.name == "gemma3_text" else set())


def test_gpt2_reads_its_matrices_transposed_and_its_biases_not() -> None:
    sources = family_for(Config(CONFIGS["gpt2"])).sources(spec_of("gpt2"))
    assert sources["layers.1.attn.k.weight"] == TensorSource(name="h.1.attn.c_attn.weight", rows=(56, 112), is_transposed=True)
    assert sources["layers.1.attn.k.bias"] == TensorSource(name="h.1.attn.c_attn.bias", rows=(56, 112))
    assert sources["layers.0.ffn.down.weight"] == TensorSource(name="h.0.mlp.c_proj.weight", is_transposed=True)
    assert sources["embed.weight"] == TensorSource(name="wte.weight")
    assert sources["layers.0.attn_norm.bias"] == TensorSource(name="h.0.ln_1.bias")


def test_gpt2_ignores_the_masks_of_old_files_but_no_bias() -> None:
    gpt2 = family_for(Config(CONFIGS["gpt2"]))
    assert gpt2.is_ignored("h.3.attn.bias")
    assert gpt2.is_ignored("transformer.h.11.attn.masked_bias")
    assert not gpt2.is_ignored("h.3.attn.c_attn.bias")


def test_gpt2_spec() -> None:
    spec = spec_of("gpt2")
    ffn = DenseFfn(kind=FfnKind.PLAIN, activation=Activation.GELU_TANH, size=224, has_bias=True)
    assert (spec.norm, spec.layers[0].ffn, spec.head_dim) == (NormKind.LAYER, ffn, 8)
    assert spec.tensor_shapes()["position.weight"] == (512, 56)
    assert spec_of("gpt2", scale_attn_weights=False).attention_scale == 1.0


def test_llama_biases_follow_the_config() -> None:
    spec = spec_of("llama", attention_bias=True, mlp_bias=True)
    assert (spec.has_qkv_bias, spec.has_attention_out_bias, spec.layers[0].ffn.has_bias) == (True, True, True)
    spec = spec_of("llama")
    assert (spec.has_qkv_bias, spec.has_attention_out_bias, spec.layers[0].ffn.has_bias) == (False, False, False)


def test_llama_without_kv_heads_has_one_for_every_query_head() -> None:
    assert spec_of("llama", num_key_value_heads=None).num_kv_heads == 14


def test_old_rotary_tables_are_ignored() -> None:
    assert family_for(Config(CONFIGS["llama"])).is_ignored("model.layers.0.self_attn.rotary_emb.inv_freq")
    assert not family_for(Config(CONFIGS["llama"])).is_ignored("model.layers.0.self_attn.q_proj.weight")


def test_mistral_windows_cover_all_layers_or_none() -> None:
    assert [layer.sliding_window for layer in spec_of("mistral").layers] == [64] * 4
    assert [layer.sliding_window for layer in spec_of("mistral", sliding_window=None).layers] == [None] * 4


def test_qwen2_windows_start_at_max_window_layers() -> None:
    windowed = {"use_sliding_window": True, "sliding_window": 64}
    assert [x.sliding_window for x in spec_of("qwen2", **windowed, max_window_layers=1).layers] == [None, 64, 64, 64]
    assert [x.sliding_window for x in spec_of("qwen2", **windowed, max_window_layers=0).layers] == [64] * 4
    inert = {"use_sliding_window": False, "sliding_window": 64, "max_window_layers": 1}
    assert [x.sliding_window for x in spec_of("qwen2", **inert).layers] == [None] * 4


def test_qwen2_layer_types_win_over_max_window_layers() -> None:
    types = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]
    spec = spec_of("qwen2", use_sliding_window=True, sliding_window=64, max_window_layers=0, layer_types=types)
    assert [layer.sliding_window for layer in spec.layers] == [64, None, None, 64]


def test_qwen_biases() -> None:
    assert (spec_of("qwen2").has_qkv_bias, spec_of("qwen2").has_attention_out_bias) == (True, False)
    assert (spec_of("qwen3").has_qkv_bias, spec_of("qwen3", attention_bias=True).has_attention_out_bias) == (False, True)


def test_qwen3_norms_each_head() -> None:
    spec = spec_of("qwen3")
    assert spec.qk_norm is QKNorm.PER_HEAD
    assert spec.tensor_shapes()["layers.0.attn.q_norm.weight"] == (24,)


def test_olmo2_norms_after_each_part_and_whole_projections() -> None:
    spec = spec_of("olmo2")
    assert (spec.norm_placement, spec.qk_norm) == (NormPlacement.POST, QKNorm.WHOLE)
    sources = family_for(Config(CONFIGS["olmo2"])).sources(spec)
    assert sources["layers.0.ffn_post_norm.weight"].name == "layers.0.post_feedforward_layernorm.weight"


def test_phi3_chooses_longrope_factors_by_the_context_it_will_serve() -> None:
    long, short = spec_of("phi3"), spec_of("phi3", 128)
    assert long.layers[0].rope is not None
    assert short.layers[0].rope is not None
    assert long.layers[0].rope.inv_freq == tuple(value / 2 for value in short.layers[0].rope.inv_freq)
    assert long.layers[0].rope.attention_factor == short.layers[0].rope.attention_factor > 1
    assert spec_of("phi3", 129).layers[0].rope == long.layers[0].rope


def test_phi3_rotates_a_part_of_each_head() -> None:
    rope = spec_of("phi3", partial_rotary_factor=0.75, rope_scaling=None).layers[0].rope
    assert rope is not None
    assert rope.rotary_dim == 18


def test_gemma3_layers_alternate_between_two_windows_and_two_rotations() -> None:
    spec = spec_of("gemma3_text")
    assert [layer.sliding_window for layer in spec.layers] == [32, 32, None, 32]
    local, everywhere = spec.layers[0].rope, spec.layers[2].rope
    assert local is not None
    assert everywhere is not None
    assert local.inv_freq[-1] == pytest.approx(10_000.0 ** (-22 / 24), rel=1e-6)
    assert everywhere.inv_freq[-1] == pytest.approx(1_000_000.0 ** (-22 / 24), rel=1e-6)


def test_gemma3_writes_the_same_facts_in_two_styles() -> None:
    newer = {
        "rope_theta": None,
        "rope_local_base_freq": None,
        "sliding_window_pattern": None,
        "_sliding_window_pattern": 6,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1_000_000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
    }
    assert spec_of("gemma3_text", **json.loads(json.dumps(newer))) == spec_of("gemma3_text")


def test_gemma3_spec() -> None:
    spec = spec_of("gemma3_text", final_logit_softcapping=30.0)
    assert (spec.norm_placement, spec.layers[0].ffn.activation) == (NormPlacement.SANDWICH, Activation.GELU_TANH)
    assert (spec.attention_scale, spec.embedding_scale, spec.logit_softcap) == (0.25, 56**0.5, 30.0)
    assert spec.is_head_tied


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("llama", {"is_llama_config": True, "rope_interleaved": False, "transformers.js_config": {"dtype": "q4"}}),
        ("qwen2", {"use_mrope": False, "sliding_window": 32_768, "max_window_layers": 21, "use_sliding_window": False}),
        ("phi3", {"full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False, "mlp_bias": False, "embd_pdrop": 0.0}),
        ("gpt2", {"task_specific_params": {"text-generation": {"do_sample": True}}, "reorder_and_upcast_attn": False}),
        ("olmo2", {"use_cache": False, "rope_scaling": None, "dtype": "float32"}),
    ],
)
def test_fields_that_published_checkpoints_carry_are_accepted(family: str, fields: dict[str, Any]) -> None:
    assert spec_of(family, **fields) == spec_of(family)
