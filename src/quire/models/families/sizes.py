"""The sizes every family has, read once and checked against sane limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from quire.config import COUNT_LIMITS
from quire.errors import ConfigError, UnsupportedConfigError
from quire.models.config_file import Config
from quire.models.spec import Activation

MAX_HIDDEN = 65_536
MAX_HEADS = 1_024
MAX_HEAD_DIM = 1_024
MAX_LAYERS = 1_024
MAX_FFN = 1_048_576
MAX_VOCAB = 4_194_304
MAX_CONTEXT = 16_777_216  # positions are float32 in the rotation: exact up to here

ACTIVATIONS: Mapping[str, Activation] = MappingProxyType(
    {
        "silu": Activation.SILU,
        "swish": Activation.SILU,
        "gelu": Activation.GELU,
        "gelu_new": Activation.GELU_TANH,
        "gelu_fast": Activation.GELU_TANH,
        "gelu_pytorch_tanh": Activation.GELU_TANH,
        "relu": Activation.RELU,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Sizes of a decoder; `max_positions` is what config.json calls max_position_embeddings, before any rope scaling."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_size: int
    vocab_size: int
    max_positions: int


def read_sizes(config: Config) -> Sizes:
    """Returns the sizes under the names that llama and its descendants use.

    `num_key_value_heads` null means a kv head for every query head, `head_dim` null the hidden size divided by the heads.
    """
    hidden = config.size("hidden_size", limit=MAX_HIDDEN)
    heads = config.size("num_attention_heads", limit=MAX_HEADS)
    head_dim = config.optional_size("head_dim", limit=MAX_HEAD_DIM)
    kv_heads = config.optional_size("num_key_value_heads", limit=MAX_HEADS) or heads
    check_groups(heads, kv_heads)
    return Sizes(
        hidden_size=hidden,
        num_layers=config.size("num_hidden_layers", limit=MAX_LAYERS),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=check_head_dim(head_dim or divide_heads(hidden, heads)),
        ffn_size=config.size("intermediate_size", limit=MAX_FFN),
        vocab_size=config.size("vocab_size", limit=MAX_VOCAB),
        max_positions=config.size("max_position_embeddings", limit=MAX_CONTEXT),
    )


def divide_heads(hidden_size: int, num_heads: int) -> int:
    """Returns the elements of one head where the heads share the hidden size evenly."""
    if hidden_size % num_heads:
        raise UnsupportedConfigError(
            "config.json: the heads do not divide the hidden size",
            given=f"hidden size {hidden_size}, {num_heads} heads",
            next_step="Check that config.json is the original one.",
        )
    return hidden_size // num_heads


def check_groups(num_heads: int, num_kv_heads: int) -> None:
    """Raises unless every kv head serves the same number of query heads."""
    if num_heads % num_kv_heads:
        raise UnsupportedConfigError(
            "config.json: the key/value heads do not divide the query heads",
            given=f"{num_heads} query heads, {num_kv_heads} key/value heads",
            next_step="Check that config.json is the original one.",
        )


def check_head_dim(head_dim: int) -> int:
    """Returns `head_dim` if it is even and within the limit."""
    if head_dim % 2 or head_dim > MAX_HEAD_DIM:
        raise UnsupportedConfigError(
            "config.json: the head dimension must be even",
            given=head_dim,
            limit=f"2 to {MAX_HEAD_DIM}",
            next_step="Check hidden_size, num_attention_heads and head_dim.",
        )
    return head_dim


def choose_context(model_context: int, max_context: int | None, bound: str | None = None) -> int:
    """Returns the context to serve: the model's own, or a shorter one on request; positions are never extrapolated.

    `bound` says in an error why the model's context is no longer, where config.json itself gives a longer one.
    """
    if max_context is None:
        return model_context
    low, _ = COUNT_LIMITS["max_context"]
    if not low <= max_context <= model_context:
        raise ConfigError(
            "The requested context does not fit the model" + ("" if bound is None else f": {bound}"),
            given=max_context,
            limit=f"{low} to {model_context} tokens",
            next_step="Ask for a shorter max_context, or leave it out to use the model's own.",
        )
    return max_context
