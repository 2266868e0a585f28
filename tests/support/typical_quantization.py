"""What `quantization_config` typically says: written after checkpoints on the Hub, but from memory, not copied.

Fields and their spellings are what the test is about.
"""

from __future__ import annotations

from typing import Any

_W4A16_WEIGHTS = {
    "actorder": None, "block_structure": None, "dynamic": False, "group_size": 128, "num_bits": 4, "observer": "minmax",
    "observer_kwargs": {}, "strategy": "group", "symmetric": True, "type": "int",
}  # fmt: skip
_FP8_WEIGHTS = {**_W4A16_WEIGHTS, "group_size": None, "num_bits": 8, "strategy": "channel", "type": "float"}
_DYNAMIC_INPUTS = {**_FP8_WEIGHTS, "dynamic": True, "observer": "memoryless", "strategy": "token"}
_MXFP4_QUARK = {
    "ch_axis": -1, "dtype": "fp4", "group_size": 32, "is_dynamic": False, "is_scale_quant": False, "mx_element_dtype": None,
    "observer_cls": "PerBlockMXObserver", "qscheme": "per_group", "round_method": "half_even",
    "scale_calculation_mode": "even", "scale_format": "e8m0", "scale_type": "float", "symmetric": None,
}  # fmt: skip


def _compressed(storage: str, weights: dict[str, Any], inputs: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    group = {"input_activations": inputs, "output_activations": None, "targets": ["Linear"], "weights": weights}
    return {
        "config_groups": {"group_0": group},
        "format": storage,
        "global_compression_ratio": 1.5,
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        **fields,
    }


# fmt: off
TYPICAL_QUANTIZATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "Qwen2.5-7B-Instruct-GPTQ-Int4": ({
        "batch_size": 1, "bits": 4, "block_name_to_quantize": None, "cache_block_outputs": True, "damp_percent": 0.01,
        "dataset": None, "desc_act": False, "exllama_config": {"version": 1}, "group_size": 128, "max_input_length": None,
        "model_seqlen": None, "module_name_preceding_first_block": None, "modules_in_block_to_quantize": None,
        "pad_token_id": None, "quant_method": "gptq", "sym": True, "tokenizer": None, "true_sequential": True,
        "use_cuda_fp16": False, "use_exllama": True,
    }, "GPTQ, 4 bits, groups of 128"),
    "TheBloke/Llama-2-7B-GPTQ": ({
        "bits": 4, "damp_percent": 0.01, "desc_act": True, "group_size": -1, "model_file_base_name": "model",
        "model_name_or_path": None, "quant_method": "gptq", "static_groups": False, "sym": True, "true_sequential": True,
    }, "GPTQ, 4 bits, a scale per output, sorted inputs"),
    "ModelCloud, gptqmodel 5": ({
        "bits": 4, "checkpoint_format": "gptq", "desc_act": False, "dynamic": {"-:.*\\.shared_head\\..*": {}},
        "format": "gptq", "group_size": 32, "lm_head": False, "pack_dtype": "int32", "pack_impl": "cpu", "quant_method": "gptq",
        "sym": True, "meta": {
            "act_group_aware": True, "damp_auto_increment": 0.01, "damp_percent": 0.05, "gptaq": False, "mse": 0.0,
            "quantizer": ["gptqmodel:5.6.12"], "static_groups": False, "true_sequential": True,
            "uri": "https://github.com/modelcloud/gptqmodel",
        },
    }, "GPTQ, 4 bits, groups of 32"),
    "Qwen2.5-7B-Instruct-AWQ": ({
        "bits": 4, "group_size": 128, "modules_to_not_convert": None, "quant_method": "awq", "version": "gemm",
        "zero_point": True,
    }, "AWQ, 4 bits, groups of 128, zero points"),
    "hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4": ({
        "backend": "autoawq", "bits": 4, "do_fuse": False, "exllama_config": None, "fuse_max_seq_len": None, "group_size": 128,
        "modules_to_fuse": None, "modules_to_not_convert": None, "quant_method": "awq", "version": "gemm", "zero_point": True,
    }, "AWQ, 4 bits, groups of 128, zero points"),
    "Intel, AutoRound 0.12": ({
        "autoround_version": "0.12.3", "bits": 4, "data_type": "int", "group_size": 128, "iters": 0, "low_gpu_mem_usage": True,
        "packing_format": "auto_round:auto_gptq", "quant_method": "auto-round", "sym": True,
        "extra_config": {"lm_head": {"bits": 16, "data_type": "float"}}, "block_name_to_quantize": "model.layers",
    }, "AutoRound, 4 bits, groups of 128"),
    "RedHatAI, w4a16": (
        _compressed("pack-quantized", _W4A16_WEIGHTS, sparsity_config={}, transform_config={}, version="0.10.2"),
        "compressed-tensors, 4 bits, groups of 128",
    ),
    "RedHatAI, quantized.w8a8": (
        _compressed("int-quantized", {**_FP8_WEIGHTS, "type": "int"}, {**_DYNAMIC_INPUTS, "type": "int"}),
        "compressed-tensors, 8 bits, a scale per output or tensor",
    ),
    "RedHatAI, FP8-dynamic": (
        _compressed("float-quantized", _FP8_WEIGHTS, _DYNAMIC_INPUTS),
        "compressed-tensors, FP8, a scale per output or tensor",
    ),
    "neuralmagic, FP8-KV": (
        _compressed(
            "float-quantized", {**_FP8_WEIGHTS, "strategy": "tensor"}, {**_FP8_WEIGHTS, "strategy": "tensor"},
            kv_cache_scheme={**_FP8_WEIGHTS, "strategy": "tensor"},
        ),
        "compressed-tensors, FP8, a scale per output or tensor",
    ),
    "Qwen3-8B-FP8": ({
        "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128],
        "modules_to_not_convert": ["lm_head", "model.layers.0.input_layernorm"],
    }, "FP8, blocks of 128 x 128"),
    "neuralmagic/Meta-Llama-3-8B-Instruct-FP8": ({
        "activation_scheme": "static", "ignored_layers": ["lm_head"], "quant_method": "fp8",
    }, "FP8, a scale per tensor or output"),
    "meta-llama, FBGEMM": ({
        "activation_scale_ub": 1200.0, "modules_to_not_convert": ["model.layers.0.self_attn.q_proj"],
        "quant_method": "fbgemm_fp8",
    }, "FP8, a scale per tensor or output"),
    "nvidia, ModelOpt": ({
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"dynamic": False, "num_bits": 8, "type": "float"}}},
        "ignore": ["lm_head"], "kv_cache_scheme": {"dynamic": False, "num_bits": 8, "type": "float"},
        "producer": {"name": "modelopt", "version": "0.29.0"}, "quant_algo": "FP8", "quant_method": "modelopt",
    }, "FP8, a scale per tensor or output"),
    "amd, Quark MXFP4": ({
        "algo_config": None, "exclude": ["lm_head"], "export": {
            "kv_cache_group": [], "min_kv_scale": 0.0, "pack_method": "reorder", "weight_format": "real_quantized",
            "weight_merge_groups": None,
        }, "global_quant_config": {
            "bias": None, "input_tensors": {**_MXFP4_QUARK, "is_dynamic": True}, "output_tensors": None, "target_device": None,
            "weight": _MXFP4_QUARK,
        }, "kv_cache_quant_config": {}, "layer_quant_config": {}, "layer_type_quant_config": {}, "quant_method": "quark",
        "quant_mode": "eager_mode", "softmax_quant_spec": None, "version": "0.10",
    }, "Quark, MXFP4, groups of 32"),
    "mlx-community, 4bit": ({"group_size": 64, "bits": 4}, "MLX, 4 bits, groups of 64"),
    "mlx-community, mixed": (
        {"group_size": 64, "bits": 4, "mode": "affine", "model.layers.0.mlp.down_proj": {"group_size": 64, "bits": 6}},
        "MLX, 4 bits, groups of 64, other bits in some layers",
    ),
}
# fmt: on
