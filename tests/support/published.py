"""What published checkpoints say in `config.json`: facts alone, one entry per model, and its known number of parameters.

Fields that are the same in every file of a kind stand once in its base; what libraries wrote along with them stands in full for
the models whose files hold something unusual.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One file: its fields, the parameters it describes (shared ones once), and the context it serves."""

    name: str
    num_parameters: int
    context: int
    fields: dict[str, Any] = field(default_factory=dict)


_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")
_GPT2_SIZES = ("n_embd", "n_layer", "n_head")


def _file(base: dict[str, Any], sizes: str, name: str, num_parameters: int, context: int, **fields: Any) -> Published:
    names = _GPT2_SIZES if base["model_type"] == "gpt2" else _SIZES
    numbers = zip(names, map(int, sizes.split()), strict=True)
    return Published(name=name, num_parameters=num_parameters, context=context, fields={**base, **dict(numbers), **fields})


def _without(base: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in base.items() if name not in names}


# fmt: off
_GPT2 = {
    "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": 50256,
    "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "model_type": "gpt2",
    "n_ctx": 1024, "n_positions": 1024, "resid_pdrop": 0.1, "summary_activation": None, "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True, "summary_type": "cls_index", "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}, "vocab_size": 50257,
}
_OLD_GPT2 = {**_GPT2, "n_special": 0, "predict_special_tokens": True}
_LLAMA = {
    "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
    "initializer_range": 0.02, "model_type": "llama", "torch_dtype": "float16", "transformers_version": "4.31.0",
    "use_cache": True,
}
_LLAMA1 = {**_LLAMA, "max_position_embeddings": 2048, "max_sequence_length": 2048, "pad_token_id": 0, "rms_norm_eps": 1e-06}
_LLAMA2 = {
    **_LLAMA, "max_position_embeddings": 4096, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None,
    "tie_word_embeddings": False,
}
_LLAMA3 = {
    **_LLAMA2, "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 128000, "eos_token_id": 128001,
    "max_position_embeddings": 8192, "rope_theta": 500000.0, "torch_dtype": "bfloat16",
}


def _llama3_scaling(factor: float) -> dict[str, Any]:
    return {
        "factor": factor,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    }


_LLAMA31 = {
    **_LLAMA3, "eos_token_id": [128001, 128008, 128009], "max_position_embeddings": 131072, "mlp_bias": False,
    "rope_scaling": _llama3_scaling(8.0),
}
_LLAMA32 = {**_LLAMA31, "rope_scaling": _llama3_scaling(32.0), "tie_word_embeddings": True}
_SMOLLM2 = {
    **_LLAMA2, "attention_bias": False, "attention_dropout": 0.0, "is_llama_config": True, "mlp_bias": False,
    "rope_interleaved": False, "rope_theta": 100000, "max_position_embeddings": 8192, "tie_word_embeddings": True,
    "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}},
}
_YI = {**_LLAMA2, "pad_token_id": 0, "rope_theta": 5000000.0, "rms_norm_eps": 1e-05}
_FALCON3 = {
    **_LLAMA2, "activation": "swiglu", "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 11,
    "eos_token_id": 11, "head_dim": 256, "max_position_embeddings": 32768, "mlp_bias": False, "parallel_attn": False,
    "rms_norm_eps": 1e-06, "rope_theta": 1000042,
}
_MISTRAL = {
    "architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
    "initializer_range": 0.02, "max_position_embeddings": 32768, "model_type": "mistral", "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": True,
}
_NEWER_MISTRAL = {**_MISTRAL, "attention_dropout": 0.0, "head_dim": 128, "rope_theta": 1000000.0, "sliding_window": None}
_QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645,
    "hidden_act": "silu", "initializer_range": 0.02, "max_position_embeddings": 32768, "model_type": "qwen2",
    "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 131072, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "use_cache": True, "use_sliding_window": False,
}
_QWEN3 = {
    **_QWEN2, "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "head_dim": 128,
    "max_position_embeddings": 40960, "model_type": "qwen3", "rope_scaling": None, "sliding_window": None,
}
_PHI3 = {
    "architectures": ["Phi3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config", "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"},
    "bos_token_id": 1, "embd_pdrop": 0.0, "eos_token_id": 32000, "hidden_act": "silu", "initializer_range": 0.02,
    "model_type": "phi3", "original_max_position_embeddings": 4096, "pad_token_id": 32000, "resid_pdrop": 0.0,
    "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 10000.0, "tie_word_embeddings": False, "use_cache": True,
}


def _longrope(kind: str, num_pairs: int) -> dict[str, Any]:
    return {"long_factor": [1.5] * num_pairs, "short_factor": [1.05] * num_pairs, "type": kind}


_PHI4_MINI = {
    **_PHI3, "bos_token_id": 199999, "eos_token_id": 199999, "full_attn_mod": 1, "interpolate_factor": 1,
    "lm_head_bias": False, "max_position_embeddings": 131072, "mlp_bias": False, "pad_token_id": 199999,
    "partial_rotary_factor": 0.75, "rope_scaling": _longrope("longrope", 48), "sliding_window": 262144,
    "tie_word_embeddings": True,
}
_GEMMA3 = {
    "architectures": ["Gemma3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "attn_logit_softcapping": None,
    "bos_token_id": 2, "eos_token_id": 1, "final_logit_softcapping": None, "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh", "initializer_range": 0.02, "max_position_embeddings": 32768,
    "model_type": "gemma3_text", "pad_token_id": 0, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": 512, "use_cache": True,
}
_OLMO2 = {
    "architectures": ["Olmo2ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "eos_token_id": 100257,
    "hidden_act": "silu", "initializer_range": 0.02, "max_position_embeddings": 4096, "model_type": "olmo2",
    "pad_token_id": 100277, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 500000, "tie_word_embeddings": False,
    "torch_dtype": "float32", "use_cache": False,
}
_YARN = {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"}
PUBLISHED = (
    _file(_GPT2, "768 12 12", "gpt2", 124_439_808, 1024),
    _file(_OLD_GPT2, "1024 24 16", "gpt2-medium", 354_823_168, 1024),
    _file(_OLD_GPT2, "1280 36 20", "gpt2-large", 774_030_080, 1024),
    _file(_GPT2, "1600 48 25", "gpt2-xl", 1_557_611_200, 1024, output_past=True),
    _file(_GPT2, "768 6 12", "distilgpt2", 81_912_576, 1024, _num_labels=1, id2label={"0": "LABEL_0"}, is_decoder=True),
    _file(_OLD_GPT2, "1024 24 16", "DialoGPT-medium", 354_823_168, 1024, pruned_heads={}),
    _file(_without(_LLAMA1, "max_position_embeddings"), "4096 11008 32 32 32 32000", "llama-7b of decapoda", 6_738_415_616, 2048,
          architectures=["LLaMAForCausalLM"], bos_token_id=0, eos_token_id=1, pad_token_id=-1),
    _file(_LLAMA1, "4096 11008 32 32 32 32000", "llama-7b", 6_738_415_616, 2048),
    _file(_LLAMA1, "5120 13824 40 40 40 32000", "llama-13b", 13_015_864_320, 2048),
    _file(_LLAMA1, "6656 17920 60 52 52 32000", "llama-30b", 32_528_943_616, 2048),
    _file(_LLAMA1, "8192 22016 80 64 64 32000", "llama-65b", 65_285_660_672, 2048),
    _file(_LLAMA2, "4096 11008 32 32 32 32000", "Llama-2-7b", 6_738_415_616, 4096),
    _file(_LLAMA2, "5120 13824 40 40 40 32000", "Llama-2-13b", 13_015_864_320, 4096),
    _file(_LLAMA2, "8192 28672 80 64 8 32000", "Llama-2-70b", 68_976_648_192, 4096),
    _file(_LLAMA2, "4096 11008 32 32 32 32000", "vicuna-7b-v1.5-16k", 6_738_415_616, 16384, max_sequence_length=16384,
          rope_scaling={"factor": 4.0, "type": "linear"}),
    _file(_LLAMA2, "4096 11008 32 32 32 32016", "CodeLlama-7b", 6_738_546_688, 16384, max_position_embeddings=16384,
          rope_theta=1000000),
    _file(_LLAMA2, "4096 11008 32 32 32 32000", "Yarn-Llama-2-7b-128k", 6_738_415_616, 131072,
          auto_map={"AutoModelForCausalLM": "modeling_llama_together_yarn.LlamaForCausalLM"}, max_position_embeddings=131072,
          rope_scaling={"factor": 32.0, "original_max_position_embeddings": 4096, "type": "yarn", "finetuned": True}),
    _file(_LLAMA3, "4096 14336 32 32 8 128256", "Meta-Llama-3-8B", 8_030_261_248, 8192),
    _file(_LLAMA31, "4096 14336 32 32 8 128256", "Llama-3.1-8B-Instruct", 8_030_261_248, 131072),
    _file(_LLAMA31, "8192 28672 80 64 8 128256", "Llama-3.3-70B-Instruct", 70_553_706_496, 131072, head_dim=128),
    _file(_LLAMA32, "2048 8192 16 32 8 128256", "Llama-3.2-1B", 1_235_814_400, 131072, head_dim=64),
    _file(_LLAMA32, "3072 8192 28 24 8 128256", "Llama-3.2-3B", 3_212_749_824, 131072, head_dim=128),
    _file(_LLAMA32, "2048 8192 16 32 8 128256", "Llama-3.2-1B of Unsloth", 1_235_814_400, 131072,
          model_name="unsloth/Llama-3.2-1B", unsloth_fixed=True, unsloth_version="2025.3.1",
          _pre_quantization_dtype="bfloat16"),
    _file(_LLAMA31, "4096 14336 32 32 8 128256", "DeepSeek-R1-Distill-Llama-8B", 8_030_261_248, 131072, eos_token_id=128001),
    _file(_LLAMA2, "2048 5632 22 32 4 32000", "TinyLlama-1.1B", 1_100_048_384, 2048, max_position_embeddings=2048),
    _file(_SMOLLM2, "576 1536 30 9 3 49152", "SmolLM2-135M", 134_515_008, 8192),
    _file(_SMOLLM2, "960 2560 32 15 5 49152", "SmolLM2-360M", 361_821_120, 8192),
    _file(_SMOLLM2, "2048 8192 24 32 32 49152", "SmolLM2-1.7B", 1_711_376_384, 8192),
    _file(_YI, "4096 11008 32 32 4 64000", "Yi-6B", 6_061_035_520, 4096),
    _file(_YI, "7168 20480 60 56 8 64000", "Yi-34B", 34_388_917_248, 4096),
    _file(_FALCON3, "2048 8192 18 8 4 131072", "Falcon3-1B-Base", 1_669_408_768, 4096, max_position_embeddings=4096),
    _file(_FALCON3, "3072 9216 22 12 4 131072", "Falcon3-3B-Base", 3_227_655_168, 32768),
    _file(_FALCON3, "3072 23040 28 12 4 131072", "Falcon3-7B-Base", 7_455_550_464, 32768),
    _file(_FALCON3, "3072 23040 40 12 4 131072", "Falcon3-10B-Base", 10_305_653_760, 32768),
    _file(_MISTRAL, "4096 14336 32 32 8 32000", "Mistral-7B-v0.1", 7_241_732_096, 32768),
    _file(_MISTRAL, "4096 14336 32 32 8 32000", "Mistral-7B-Instruct-v0.2", 7_241_732_096, 32768, rope_theta=1000000.0,
          sliding_window=None, attention_dropout=0.0),
    _file(_MISTRAL, "4096 14336 32 32 8 32768", "Mistral-7B-v0.3", 7_248_023_552, 32768, rope_theta=1000000.0,
          sliding_window=None),
    _file(_MISTRAL, "4096 14336 32 32 8 32002", "OpenHermes-2.5-Mistral-7B", 7_241_748_480, 32768, eos_token_id=32000),
    _file(_MISTRAL, "4096 14336 32 32 8 32000", "zephyr-7b-beta", 7_241_732_096, 32768, pad_token_id=2),
    _file(_NEWER_MISTRAL, "5120 14336 40 32 8 131072", "Mistral-Nemo-Base-2407", 12_247_782_400, 131072,
          max_position_embeddings=131072),
    _file(_NEWER_MISTRAL, "4096 12288 36 32 8 131072", "Ministral-8B-Instruct-2410", 8_019_808_256, 32768,
          rope_theta=100000000.0, sliding_window=32768),
    _file(_NEWER_MISTRAL, "5120 32768 40 32 8 131072", "Mistral-Small-24B-Base-2501", 23_572_403_200, 32768,
          rope_theta=100000000.0),
    _file(_QWEN2, "1024 2816 24 16 16 151936", "Qwen1.5-0.5B", 463_987_712, 32768, tie_word_embeddings=True,
          max_window_layers=21, sliding_window=32768),
    _file(_QWEN2, "896 4864 24 14 2 151936", "Qwen2.5-0.5B", 494_032_768, 32768, tie_word_embeddings=True,
          max_window_layers=24, use_mrope=False),
    _file(_QWEN2, "1536 8960 28 12 2 151936", "Qwen2.5-1.5B", 1_543_714_304, 131072, tie_word_embeddings=True,
          max_position_embeddings=131072, max_window_layers=28),
    _file(_QWEN2, "2048 11008 36 16 2 151936", "Qwen2.5-3B", 3_085_938_688, 32768, tie_word_embeddings=True,
          max_window_layers=36),
    _file(_QWEN2, "3584 18944 28 28 4 152064", "Qwen2.5-7B-Instruct", 7_615_616_512, 32768, max_window_layers=28),
    _file(_QWEN2, "3584 18944 28 28 4 152064", "Qwen2.5-7B-Instruct with YaRN", 7_615_616_512, 131072, max_window_layers=28,
          rope_scaling=_YARN),
    _file(_QWEN2, "5120 13824 48 40 8 152064", "Qwen2.5-14B", 14_770_033_664, 131072, max_window_layers=48,
          max_position_embeddings=131072),
    _file(_QWEN2, "5120 27648 64 40 8 152064", "QwQ-32B", 32_763_876_352, 131072, max_window_layers=64,
          max_position_embeddings=40960, rope_scaling=_YARN),
    _file(_QWEN2, "8192 29568 80 64 8 152064", "Qwen2.5-72B", 72_706_203_648, 131072, max_window_layers=80,
          max_position_embeddings=131072),
    _file(_QWEN2, "1536 8960 28 12 2 151936", "DeepSeek-R1-Distill-Qwen-1.5B", 1_777_088_000, 131072,
          max_position_embeddings=131072, max_window_layers=21, sliding_window=4096, rope_theta=10000, use_mrope=False),
    _file(_QWEN3, "1024 3072 28 16 8 151936", "Qwen3-0.6B", 596_049_920, 40960, tie_word_embeddings=True,
          max_window_layers=28),
    _file(_QWEN3, "2048 6144 28 16 8 151936", "Qwen3-1.7B", 1_720_574_976, 40960, tie_word_embeddings=True,
          max_window_layers=28),
    _file(_QWEN3, "2560 9728 36 32 8 151936", "Qwen3-4B", 4_022_468_096, 40960, tie_word_embeddings=True,
          max_window_layers=36),
    _file(_QWEN3, "2560 9728 36 32 8 151936", "Qwen3-4B-Instruct-2507", 4_022_468_096, 262144, tie_word_embeddings=True,
          max_window_layers=36, max_position_embeddings=262144, rope_theta=5000000),
    _file(_QWEN3, "4096 12288 36 32 8 151936", "Qwen3-8B", 8_190_735_360, 40960, max_window_layers=36),
    _file(_QWEN3, "4096 12288 36 32 8 151936", "Qwen3-8B with YaRN", 8_190_735_360, 131072, max_window_layers=36,
          rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}),
    _file(_QWEN3, "5120 17408 40 40 8 151936", "Qwen3-14B", 14_768_307_200, 40960, max_window_layers=40),
    _file(_QWEN3, "5120 25600 64 64 8 151936", "Qwen3-32B", 32_762_123_264, 40960, max_window_layers=64),
    _file(_without(_QWEN3, "rope_theta", "rope_scaling", "torch_dtype"), "1024 3072 28 16 8 151936", "Qwen3-0.6B in newer form",
          596_049_920, 40960, dtype="bfloat16", layer_types=["full_attention"] * 28, max_window_layers=28, pad_token_id=None,
          rope_parameters={"rope_theta": 1000000, "rope_type": "default"}, tie_word_embeddings=True),
    _file(_PHI3, "3072 8192 32 32 32 32064", "Phi-3-mini-4k-instruct", 3_821_079_552, 4096, max_position_embeddings=4096,
          sliding_window=2047),
    _file(_PHI3, "3072 8192 32 32 32 32064", "Phi-3-mini-128k-instruct at first", 3_821_079_552, 131072,
          max_position_embeddings=131072, sliding_window=262144, rope_scaling=_longrope("su", 48)),
    _file(_PHI3, "3072 8192 32 32 32 32064", "Phi-3.5-mini-instruct", 3_821_079_552, 131072, max_position_embeddings=131072,
          sliding_window=262144, rope_scaling=_longrope("longrope", 48)),
    _file(_PHI3, "5120 17920 40 40 10 32064", "Phi-3-medium-4k-instruct", 13_960_238_080, 4096, max_position_embeddings=4096,
          sliding_window=2047),
    _file(_PHI3, "5120 17920 40 40 10 32064", "Phi-3-medium-128k-instruct", 13_960_238_080, 131072,
          max_position_embeddings=131072, sliding_window=131072, rope_scaling=_longrope("longrope", 64)),
    _file(_without(_PHI3, "auto_map"), "5120 17920 40 40 10 100352", "phi-4", 14_659_507_200, 16384, bos_token_id=100257,
          eos_token_id=100257, pad_token_id=100257, max_position_embeddings=16384, original_max_position_embeddings=16384,
          rope_theta=250000, sliding_window=None),
    _file(_PHI4_MINI, "3072 8192 32 24 8 200064", "Phi-4-mini-instruct", 3_836_021_760, 131072),
    _file(_PHI4_MINI, "3072 8192 32 24 8 200064", "Phi-4-mini-reasoning", 3_836_021_760, 131072,
          eos_token_id=[200020, 199999]),
    _file(_GEMMA3, "1152 6912 26 4 1 262144", "gemma-3-1b-it", 999_885_952, 32768, cache_implementation="hybrid",
          eos_token_id=[1, 106], sliding_window_pattern=6),
    _file(_GEMMA3, "640 2048 18 4 1 262144", "gemma-3-270m", 268_098_176, 32768, _sliding_window_pattern=6,
          layer_types=(["sliding_attention"] * 5 + ["full_attention"]) * 3, use_bidirectional_attention=False),
    _file(_without(_GEMMA3, "rope_theta", "rope_local_base_freq", "rope_scaling"), "640 2048 18 4 1 262144",
          "gemma-3-270m in newer form", 268_098_176, 32768, _sliding_window_pattern=6, dtype="bfloat16",
          layer_types=(["sliding_attention"] * 5 + ["full_attention"]) * 3,
          rope_parameters={"full_attention": {"rope_theta": 1000000.0, "rope_type": "default"},
                           "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"}}),
    _file(_OLMO2, "2048 8192 16 16 16 100352", "OLMo-2-0425-1B", 1_484_916_736, 4096),
    _file(_OLMO2, "4096 11008 32 32 32 100352", "OLMo-2-1124-7B", 7_298_617_344, 4096),
    _file(_OLMO2, "5120 13824 40 40 40 100352", "OLMo-2-1124-13B", 13_716_198_400, 4096),
    _file(_OLMO2, "5120 27648 64 40 8 100352", "OLMo-2-0325-32B", 32_234_279_936, 4096),
)
# fmt: on
