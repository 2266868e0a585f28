"""Model families: one small file each says how a Hugging Face config and its tensor names map to ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from quire.errors import UnknownArchitectureError, UnsupportedConfigError
from quire.models.config_file import Config
from quire.models.families.defaults import DEFAULTS
from quire.models.families.gemma3 import Gemma3
from quire.models.families.gpt2 import Gpt2
from quire.models.families.llama import Llama
from quire.models.families.mistral import Mistral
from quire.models.families.olmo2 import Olmo2
from quire.models.families.phi3 import Phi3
from quire.models.families.qwen2 import Qwen2
from quire.models.families.qwen3 import Qwen3
from quire.models.quantized import read_quantization
from quire.models.source import TensorSource
from quire.models.spec import ModelSpec


class Family(Protocol):
    """How one kind of checkpoint maps to `ModelSpec` and canonical tensors."""

    @property
    def name(self) -> str:
        """The value of `model_type` in config.json."""
        ...

    @property
    def architectures(self) -> tuple[str, ...]:
        """The values of `architectures` in config.json that this family reads."""
        ...

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Prefixes of tensor names, tried in order for each tensor."""
        ...

    def build_spec(self, config: Config, max_context: int | None) -> ModelSpec:
        """Returns the spec for serving `max_context` tokens (None: the model's own); raises UnsupportedConfigError."""
        ...

    def sources(self, spec: ModelSpec) -> Mapping[str, TensorSource]:
        """Returns where each tensor of `spec.tensor_shapes()` lies."""
        ...

    def is_ignored(self, tensor_name: str) -> bool:
        """Whether a surplus tensor, named as in the file, repeats what the config says."""
        ...


FAMILIES: tuple[Family, ...] = (Gpt2(), Llama(), Mistral(), Qwen2(), Qwen3(), Phi3(), Gemma3(), Olmo2())


def family_for(config: Config) -> Family:
    """Returns the family of a config's architecture, or of its `model_type` where it names no architecture.

    Raises UnknownArchitectureError with the known ones.
    """
    known = {name: family for family in FAMILIES for name in family.architectures}
    by_type = {family.name: family for family in FAMILIES}
    model_type = config.text("model_type")
    if model_type in by_type and not config.has("architectures"):
        return by_type[model_type]
    architecture = config.architecture()
    if architecture == "Gemma3ForConditionalGeneration":
        raise UnsupportedConfigError(
            "This Gemma 3 checkpoint also holds a vision tower, which Quire does not run",
            given=architecture,
            next_step="Use a text-only checkpoint (Gemma3ForCausalLM), for example the 270M or the 1B model.",
        )
    if architecture in known:
        return known[architecture]
    if config.has("auto_map"):
        raise UnsupportedConfigError(
            "The model needs code from its directory (auto_map), which Quire never runs",
            given=architecture[:120],
            limit=", ".join(known),
            next_step="Use a checkpoint of one of the architectures above.",
        )
    raise UnknownArchitectureError(
        "config.json: architectures names one that no family maps",
        given=architecture[:120],
        limit=", ".join(known),
        next_step="Use a checkpoint of one of the architectures above.",
    )


def build_spec(config: Config, max_context: int | None = None) -> ModelSpec:
    """Returns the spec of a config whose every field is honored or known to be inert.

    `max_context` shortens the served context; a longer one than the model's raises ConfigError.
    """
    read_quantization(config)
    family = family_for(config)
    config.require("model_type", family.name)
    config.assume(DEFAULTS[family.name])
    if config.has("auto_map"):
        config.warn("auto_map", "is ignored, for Quire never runs code from a model directory and reads this architecture itself")
    spec = family.build_spec(config, max_context)
    for name in ("bos_token_id", "eos_token_id"):
        config.token_ids(name, spec.vocab_size)
    config.refuse_unread()
    return spec
