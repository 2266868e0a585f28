"""Qwen2 and Qwen2.5: llama with biases on q, k and v only; the upper layers may see a sliding window."""

from __future__ import annotations

from dataclasses import dataclass, replace

from quire.models.config_file import Config
from quire.models.families.llama_like import (
    LlamaNames,
    attention_of,
    decoder_spec,
    gated_ffn,
    read_sliding,
    read_window,
)
from quire.models.families.rope_fields import read_rope
from quire.models.families.sizes import MAX_LAYERS, read_sizes
from quire.models.spec import DenseFfn, LayerSpec, ModelSpec, RopeSpec


@dataclass(frozen=True, slots=True)
class Qwen2(LlamaNames):
    """Yang et al. 2024."""

    name: str = "qwen2"
    architectures: tuple[str, ...] = ("Qwen2ForCausalLM",)

    def build_spec(self, config: Config, max_context: int | None) -> ModelSpec:
        """Returns the spec."""
        sizes = read_sizes(config)
        rotation = read_rope(config, sizes, max_context)
        layers = read_qwen_layers(config, sizes.num_layers, gated_ffn(config, sizes), rotation.rope)
        return replace(decoder_spec(config, self.name, sizes, layers, rotation.context), has_qkv_bias=True)


def read_qwen_layers(config: Config, num_layers: int, ffn: DenseFfn, rope: RopeSpec) -> tuple[LayerSpec, ...]:
    """Returns the layers: with `use_sliding_window`, those from `max_window_layers` on (or in `layer_types`) see a window."""
    window = read_window(config)
    first_sliding = config.size("max_window_layers", limit=MAX_LAYERS, low=0)
    if not config.flag("use_sliding_window"):
        window = None
    is_sliding = read_sliding(config, num_layers, [window is not None and i >= first_sliding for i in range(num_layers)])
    if window is None and any(is_sliding):
        config.refuse("layer_types", "names sliding layers, but use_sliding_window and sliding_window give them no window")
    return tuple(LayerSpec(attention=attention_of(window if sliding else None), ffn=ffn, rope=rope) for sliding in is_sliding)
