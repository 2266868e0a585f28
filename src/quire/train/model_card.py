"""The model card: what a trained model is, what it learned from, what was measured, and how to run it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import prod
from statistics import fmean
from types import MappingProxyType

from quire.errors import ConfigError
from quire.models.spec import ModelSpec
from quire.train.curve import CurveRow
from quire.units import format_bytes, format_rate

_BYTES_PER_VALUE: Mapping[str, int] = MappingProxyType({"float32": 4, "bfloat16": 2})
_FRONT_MATTER = """\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- quire
---
"""
_FAMILY_NAMES: Mapping[str, str] = MappingProxyType(
    {"gpt2": "GPT-2", "olmo2": "OLMo 2", "phi3": "Phi-3", "gemma3_text": "Gemma 3"}
)
_LOSS_ROWS = 10  # of the curve, over which the final training loss is averaged


class Material(Enum):
    """What the model learned from, which decides how to prompt it."""

    TEXT = "text"
    CONVERSATIONS = "conversations"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """The contents of a card. `dtype` is that of the exported weights; `recipe` and `corpus` are shown as tables.

    `sections` are Markdown bodies by heading: measurements and limits of this particular model.
    """

    name: str
    summary: str
    spec: ModelSpec
    dtype: str
    material: Material
    rows: Sequence[CurveRow]
    recipe: Mapping[str, object]
    corpus: Mapping[str, object] = field(default_factory=dict)
    sections: Mapping[str, str] = field(default_factory=dict)
    curve_image: str | None = None


def render_card(facts: ModelFacts) -> str:
    """Returns the Markdown of a model directory's README.md; raises ConfigError for a curve without rows."""
    if not facts.rows:
        raise ConfigError(
            "a model without a training step has no card", given=facts.name, next_step="Train for at least one report."
        )
    parts = [f"{_FRONT_MATTER}\n# {facts.name}\n\n{facts.summary}", _section("Model", _table(_shape_rows(facts)))]
    training = [_table(_training_rows(facts.rows))]
    if facts.curve_image is not None:
        training.append(f"![Learning curve: losses and learning rate over the tokens seen]({facts.curve_image})")
    parts.append(_section("Training", *training))
    if facts.corpus:
        parts.append(_section("Corpus", _table(facts.corpus.items())))
    parts.append(_section("Recipe", _table(facts.recipe.items())))
    parts += [_section(heading, body.strip()) for heading, body in facts.sections.items()]
    parts.append(_section("How to run it", _usage(facts.material)))
    return "\n\n".join(parts) + "\n"


def num_parameters(spec: ModelSpec) -> int:
    """Returns the number of trained values; a tied head counts once."""
    return sum(prod(shape) for shape in spec.tensor_shapes().values())


def _shape_rows(facts: ModelFacts) -> Iterable[tuple[str, object]]:
    spec, num_bytes = facts.spec, _BYTES_PER_VALUE[facts.dtype]
    yield "family", _FAMILY_NAMES.get(spec.family, spec.family.capitalize())
    yield "parameters", f"{num_parameters(spec):,}"
    yield "layers", spec.num_layers
    yield "hidden size", spec.hidden_size
    yield "heads", f"{spec.num_heads} query, {spec.num_kv_heads} key/value, {spec.head_dim} elements each"
    yield "feed-forward size", "; ".join(dict.fromkeys(f"{layer.ffn.size}, {layer.ffn.kind.value}" for layer in spec.layers))
    yield "vocabulary", f"{spec.vocab_size:,} tokens, {'tied' if spec.is_head_tied else 'separate'} head"
    yield "context", f"{spec.max_context:,} tokens"
    yield "weights", f"{facts.dtype}, {format_bytes(num_parameters(spec) * num_bytes)}"
    per_token = 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim * num_bytes
    yield "KV cache", f"{format_bytes(per_token)} per token in {facts.dtype}"


def _training_rows(rows: Sequence[CurveRow]) -> Iterable[tuple[str, object]]:
    last, latest = rows[-1], rows[-_LOSS_ROWS:]
    yield "steps", f"{last.step:,}"
    yield "tokens seen", f"{last.tokens:,}"
    yield "time", _duration(last.seconds)
    yield "speed", format_rate(fmean(row.tokens_per_second for row in rows), "tokens")
    yield "training loss", f"{fmean(row.train_loss for row in latest):.4f} nats per token, mean of the last reports"
    checked = [(row.validation_loss, row.step) for row in rows if row.validation_loss is not None]
    if not checked:
        yield "validation loss", "not measured"
        return
    loss, step = checked[-1]
    yield "validation loss", f"{loss:.4f} nats per token at step {step:,}"
    lowest, lowest_step = min(checked)
    if lowest < loss:
        yield "lowest validation loss", f"{lowest:.4f} at step {lowest_step:,}"


def _usage(material: Material) -> str:
    if material is Material.CONVERSATIONS:
        commands = 'quire chat -m path/to/this/directory\nquire run -m path/to/this/directory "Hello"'
    else:
        commands = 'quire run -m path/to/this/directory --raw "The beginning of a text"'
    return (
        f"```sh\n{commands}\n```\n\nThe directory also loads with `AutoModelForCausalLM` and `AutoTokenizer` of `transformers`."
    )


def _section(heading: str, *paragraphs: str) -> str:
    return "\n\n".join((f"## {heading}", *paragraphs))


def _table(rows: Iterable[tuple[str, object]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {_cell(name)} | {_cell(value)} |" for name, value in rows)])


def _cell(value: object) -> str:
    return " ".join(str(value).replace("|", "\\|").split())


def _duration(seconds: float) -> str:
    """Returns `45 s`, `12 min` or `3 h 05 min`."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
