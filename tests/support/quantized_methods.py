"""Every method, layout and number of bits that Quire reads, as a test's parameter."""

from __future__ import annotations

from typing import Any

from support.quantized import (
    Method,
    pack_awq,
    pack_bytes,
    pack_compressed,
    pack_float_quantized,
    pack_fp8,
    pack_gptq,
    pack_mlx,
    pack_mxfp4,
)


def _gptq(bits: int, group: int, **fields: Any) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": bits, "group_size": group, **fields}


def _compressed(storage: str, **weights: Any) -> dict[str, Any]:
    return {
        "quant_method": "compressed-tensors",
        "format": storage,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ["lm_head"],
    }


def _packed(bits: int, group: int | None, **weights: Any) -> dict[str, Any]:
    strategy = "channel" if group is None else "group"
    return _compressed("pack-quantized", num_bits=bits, type="int", strategy=strategy, group_size=group, **weights)


_FP8_BLOCKS = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [16, 16]}
_QUARK = {
    "quant_method": "quark",
    "exclude": ["lm_head"],
    "global_quant_config": {"weight": {"dtype": "fp4", "qscheme": "per_group", "group_size": 32, "scale_format": "e8m0"}},
}
_MXFP4_GROUP = {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"}

METHODS = (
    *(Method(name=f"gptq-{bits}", config=_gptq(bits, 32), pack=pack_gptq(bits, 32)) for bits in (2, 3, 4, 8)),
    Method(
        name="gptq-sorted",
        config=_gptq(4, 32, desc_act=True, sym=False),
        pack=pack_gptq(4, 32, is_sorted=True),
        description="GPTQ, 4 bits, groups of 32, sorted inputs",
    ),
    Method(name="gptq-one-group", config=_gptq(4, -1), pack=pack_gptq(4, -1), description="GPTQ, 4 bits, a scale per output"),
    Method(name="gptq-uneven-group", config=_gptq(8, 48), pack=pack_gptq(8, 48)),
    Method(name="gptq-bfloat16", config=_gptq(4, 32), pack=pack_gptq(4, 32, dtype="BF16")),
    Method(name="gptq-v2", config=_gptq(4, 32, checkpoint_format="gptq_v2"), pack=pack_gptq(4, 32, minus_one=False)),
    Method(name="gptq-v2-3", config=_gptq(3, 32, format="gptq_v2"), pack=pack_gptq(3, 32, minus_one=False)),
    Method(
        name="auto-round-gptq",
        config=_gptq(4, 32, quant_method="auto-round", packing_format="auto_round:auto_gptq"),
        pack=pack_gptq(4, 32),
        description="AutoRound, 4 bits, groups of 32",
    ),
    Method(
        name="auto-round-plain-zeros",
        config=_gptq(2, 32, quant_method="auto-round", packing_format="auto_round:gptqmodel", sym=False),
        pack=pack_gptq(2, 32, minus_one=False),
    ),
    Method(
        name="auto-round-awq",
        config=_gptq(4, 32, quant_method="auto-round", packing_format="auto_round:auto_awq", sym=False),
        pack=pack_awq(32),
        description="AutoRound, 4 bits, groups of 32, zero points",
    ),
    Method(
        name="awq",
        config={"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True},
        pack=pack_awq(32),
        description="AWQ, 4 bits, groups of 32, zero points",
    ),
    Method(name="awq-one-group", config={"quant_method": "awq", "group_size": -1}, pack=pack_awq(-1)),
    Method(
        name="w4a16", config=_packed(4, 32), pack=pack_compressed(4, 32), description="compressed-tensors, 4 bits, groups of 32"
    ),
    Method(name="w4a16-float16", config=_packed(4, 32), pack=pack_compressed(4, 32, dtype="F16")),
    Method(name="w4a16-float32", config=_packed(4, 32), pack=pack_compressed(4, 32, dtype="F32")),
    Method(
        name="w4a16-zeros",
        config=_packed(4, 16, symmetric=False),
        pack=pack_compressed(4, 16, symmetric=False),
        description="compressed-tensors, 4 bits, groups of 16, zero points",
    ),
    Method(name="w4a16-sorted", config=_packed(4, 16, actorder="group"), pack=pack_compressed(4, 16, is_sorted=True)),
    Method(name="w2a16", config=_packed(2, 32), pack=pack_compressed(2, 32)),
    Method(name="w8a16", config=_packed(8, None), pack=pack_compressed(8, None)),
    Method(name="w8a16-zeros", config=_packed(8, None, symmetric=False), pack=pack_compressed(8, None, symmetric=False)),
    Method(
        name="int-quantized",
        config=_compressed("int-quantized", num_bits=8, type="int", strategy="channel"),
        pack=pack_bytes("channel"),
        description="compressed-tensors, 8 bits, a scale per output or tensor",
    ),
    Method(
        name="int-quantized-zeros",
        config=_compressed("int-quantized", num_bits=8, type="int", strategy="tensor", symmetric=False),
        pack=pack_bytes("tensor", symmetric=False),
    ),
    Method(
        name="naive-quantized-groups",
        config=_compressed("naive-quantized", num_bits=8, type="int", strategy="group", group_size=16),
        pack=pack_bytes("group", dtype="F32"),
    ),
    Method(
        name="float-quantized",
        config=_compressed("float-quantized", num_bits=8, type="float", strategy="channel"),
        pack=pack_float_quantized("channel"),
        description="compressed-tensors, FP8, a scale per output or tensor",
    ),
    Method(
        name="float-quantized-tensor",
        config=_compressed("float-quantized", num_bits=8, type="float", strategy="tensor"),
        pack=pack_float_quantized("tensor", "F32"),
    ),
    Method(
        name="mxfp4-pack-quantized",
        config=_compressed("mxfp4-pack-quantized", **_MXFP4_GROUP),
        pack=pack_mxfp4("packed"),
        description="compressed-tensors, MXFP4, groups of 32",
    ),
    Method(
        name="fp8-blocks",
        config=_FP8_BLOCKS,
        pack=pack_fp8("F8_E4M3", "16", leaf="weight_scale_inv"),
        description="FP8, blocks of 16 x 16",
    ),
    Method(
        name="fp8-narrow-last-blocks",
        config={**_FP8_BLOCKS, "weight_block_size": [48, 40]} | {"weight_block_size": [40, 40]},
        pack=pack_fp8("F8_E4M3", "40", leaf="weight_scale_inv"),
    ),
    Method(name="fp8-e5m2", config=_FP8_BLOCKS, pack=pack_fp8("F8_E5M2", "16", leaf="weight_scale_inv")),
    Method(
        name="fp8-bfloat16-scales",
        config=_FP8_BLOCKS,
        pack=pack_fp8("F8_E4M3", "16", leaf="weight_scale_inv", scale_dtype="BF16"),
    ),
    Method(
        name="fp8-tensor",
        config={"quant_method": "fp8"},
        pack=pack_fp8("F8_E4M3", "tensor"),
        description="FP8, a scale per tensor or output",
    ),
    Method(name="fp8-channel", config={"quant_method": "fbgemm_fp8"}, pack=pack_fp8("F8_E4M3", "channel")),
    Method(
        name="fp8-float16-model",
        config={"quant_method": "fp8"},
        pack=pack_fp8("F8_E4M3", "tensor", target="F16"),
        others={"torch_dtype": "float16"},
    ),
    Method(name="modelopt", config={"quant_method": "modelopt", "quant_algo": "FP8"}, pack=pack_fp8("F8_E4M3", "tensor")),
    Method(name="quark", config=_QUARK, pack=pack_mxfp4("weight"), description="Quark, MXFP4, groups of 32"),
    *(
        Method(
            name=f"mlx-{bits}",
            section="quantization",
            config={"group_size": 32, "bits": bits},
            pack=pack_mlx(bits, 32, "BF16" if bits == 4 else "F16"),
            description=f"MLX, {bits} bits, groups of 32",
        )
        for bits in (2, 3, 4, 5, 6, 8)
    ),
)

BY_NAME = {method.name: method for method in METHODS}
