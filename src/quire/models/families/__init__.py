"""Model families: one small file each says how a Hugging Face config and its tensor names map to ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from quire.errors import UnknownArchitectureError, UnsupportedConfigError
from quire.models.config_file import Config
from quire.models.families.gemma3 import Gemma3
from quire.models.families.gpt2 import Gpt2
from quire.models.families.llama import Llama
from quire.models.families.mistral import Mistral
from quire.models.families.olmo2 import Olmo2
from quire.models.families.phi3 import Phi3
from quire.models.families.qwen2 import Qwen2
from quire.models.families.qwen3 import Qwen3
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
        """What may stand before a tensor's name, tried in order for each tensor."""
        ...

    def build_spec(self, config: Config, max_context: int | None) -> ModelSpec:
        """Returns the spec for serving `max_context` tokens (None: the model's own); raises UnsupportedConfigError."""
        ...

    def sources(self, spec: ModelSpec) -> Mapping[str, TensorSource]:
        """Returns where each tensor of `spec.tensor_shapes()` lies."""
        ...

    def is_ignored(self, tensor_name: str) -> bool:
        """Whether a surplus tensor, named as in the file, repeats what is known anyway."""
        ...


FAMILIES: tuple[Family, ...] = (Gpt2(), Llama(), Mistral(), Qwen2(), Qwen3(), Phi3(), Gemma3(), Olmo2())


def family_for(config: Config) -> Family:
    """Returns the family that reads this config's architecture; raises UnknownArchitectureError with the known ones."""
    architecture = config.architecture()
    if architecture == "Gemma3ForConditionalGeneration":
        raise UnsupportedConfigError(
            "This Gemma 3 checkpoint also holds a vision tower, which Quire does not run",
            given=architecture,
            next_step="Use a text-only checkpoint (Gemma3ForCausalLM), for example the 270M or the 1B model.",
        )
    for family in FAMILIES:
        if architecture in family.architectures:
            return family
    raise UnknownArchitectureError(
        "No family maps this architecture",
        given=architecture[:120],
        limit=", ".join(known for family in FAMILIES for known in family.architectures),
        next_step="Use a checkpoint of one of the architectures above.",
    )


def build_spec(config: Config, max_context: int | None = None) -> ModelSpec:
    """Returns the spec of a config whose every field is honoured or known to be harmless.

    `max_context` shortens the served context; a longer one than the model's raises ConfigError.
    """
    config.refuse_code()
    family = family_for(config)
    config.require("model_type", family.name)
    spec = family.build_spec(config, max_context)
    config.refuse_unread()
    return spec
