"""Reads `config.json` through an allow-list: every field is honoured, known to be harmless, or refused by its name.

A family asks a `Config` for typed values; the config remembers what was asked. `refuse_unread()` then raises for any
field that nobody read and that is not on the harmless list, because ignoring it could silently change the model.
A field whose value is null counts as absent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

from quire.errors import ModelError, ModelNotFoundError, UnsupportedConfigError
from quire.models.strict_json import parse_json, shorten
from quire.units import MIB

MAX_CONFIG_BYTES = MIB
MAX_LIST_ITEMS = 4096

_CODE_FIELDS = MappingProxyType(
    {
        "auto_map": "Quire never runs code from a model directory; use a checkpoint without custom code.",
        "quantization_config": "Use the unquantised checkpoint of this model; Quire does its own quantising.",
    }
)

_HARMLESS_BY_REASON = MappingProxyType(
    {
        "where the file came from, and what libraries wrote down about themselves": """
        _name_or_path name_or_path transformers_version transformers.js_config torch_dtype dtype use_bfloat16 torchscript
        unsloth_fixed unsloth_version unsloth_tracked_at is_llama_config tokenizer_class prefix""",
        "how to compute the same numbers, or what else to return": """
        _attn_implementation _attn_implementation_internal _attn_implementation_autoset attn_implementation use_flash_attn
        use_flash_attention cache_implementation use_cache chunk_size_feed_forward gradient_checkpointing
        reorder_and_upcast_attn output_attentions output_hidden_states output_scores return_dict return_dict_in_generate""",
        "training only": """
        initializer_range initializer_factor attention_dropout attn_dropout hidden_dropout residual_dropout embedding_dropout
        resid_dropout embd_dropout attn_pdrop resid_pdrop embd_pdrop z_loss_coefficient label_smoothing""",
        "heads for other tasks": """
        id2label label2id num_labels problem_type finetuning_task task_specific_params tf_legacy_loss summary_activation
        summary_first_dropout summary_proj_to_labels summary_type summary_use_proj""",
        "token ids and generation defaults: the tokenizer, generation_config.json and the request decide these": """
        bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id cls_token_id mask_token_id decoder_start_token_id
        forced_bos_token_id forced_eos_token_id max_length min_length do_sample early_stopping num_beams num_beam_groups
        num_return_sequences diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty
        no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids remove_invalid_values suppress_tokens
        begin_suppress_tokens exponential_decay_length_penalty""",
    }
)
HARMLESS_FIELDS = frozenset(name for names in _HARMLESS_BY_REASON.values() for name in names.split())
_ALWAYS_FALSE = (
    "is_encoder_decoder",
    "add_cross_attention",
    "tie_encoder_decoder",
    "is_decoder",
    "use_mrope",
    "rope_interleaved",
    "lm_head_bias",
)

Value = TypeVar("Value")


class Config:
    """One JSON object of a model's configuration, with typed access and a record of which fields were read."""

    __slots__ = ("_fields", "_path", "_read", "_sections")

    def __init__(self, fields: Mapping[str, Any], path: str = "") -> None:
        self._fields = {name: value for name, value in fields.items() if value is not None}
        self._path = path
        self._read: set[str] = set()
        self._sections: dict[str, Config] = {}

    def has(self, name: str) -> bool:
        """Whether the field is present and not null."""
        return name in self._fields

    def size(self, name: str, *, limit: int, default: int | None = None, low: int = 1) -> int:
        """Returns an integer in [low, limit]; without a default the field must be there."""
        value = self._take(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= limit:
            self.refuse(name, "must be a whole number", f"{low} to {limit}")
        return value

    def optional_size(self, name: str, *, limit: int) -> int | None:
        """Returns an integer in [1, limit], or None where the field is absent or null."""
        self._read.add(name)
        return self.size(name, limit=limit) if self.has(name) else None

    def number(self, name: str, default: float | None = None) -> float:
        """Returns a finite number above 0; without a default the field must be there."""
        value = self._take(name, default)
        if not _is_positive_number(value):
            self.refuse(name, "must be a positive finite number")
        return float(value)

    def optional_number(self, name: str) -> float | None:
        """Returns a finite number above 0, or None where the field is absent or null."""
        self._read.add(name)
        return self.number(name) if self.has(name) else None

    def flag(self, name: str, *, default: bool) -> bool:
        """Returns true or false."""
        value = self._take(name, default)
        if not isinstance(value, bool):
            self.refuse(name, "must be true or false")
        return value

    def choice(self, name: str, table: Mapping[str, Value], default: str | None = None) -> Value:
        """Returns what `table` maps the field's text to; any other text is refused."""
        value = self._take(name, default)
        if not isinstance(value, str) or value not in table:
            self.refuse(name, "has a value that Quire does not honour", ", ".join(sorted(table)))
        return table[value]

    def texts(self, name: str) -> tuple[str, ...] | None:
        """Returns a list of strings, or None where the field is absent or null."""
        values = self._list(name)
        if values is not None and not all(isinstance(value, str) for value in values):
            self.refuse(name, "must be a list of strings")
        return values

    def numbers(self, name: str) -> tuple[float, ...]:
        """Returns a list of finite numbers above 0; the field must be there."""
        values = self._list(name)
        if values is None or not all(_is_positive_number(value) for value in values):
            self.refuse(name, "must be a list of positive finite numbers")
        return tuple(float(value) for value in values)

    def section(self, name: str) -> Config | None:
        """Returns a nested object, or None where the field is absent or null; its fields are accounted for too."""
        self._read.add(name)
        if name in self._fields and name not in self._sections:
            if not isinstance(self._fields[name], dict):
                self.refuse(name, "must be a JSON object")
            self._sections[name] = Config(self._fields[name], f"{self._path}{name}.")
        return self._sections.get(name)

    def require(self, name: str, only: object) -> None:
        """Accepts the field if it is absent or has the one value that Quire honours."""
        value = self._take(name, only)
        if value != only or isinstance(value, bool) != isinstance(only, bool):
            self.refuse(name, "has a value that Quire does not honour", json.dumps(only))

    def architecture(self) -> str:
        """Returns the one architecture the file names."""
        names = self.texts("architectures")
        if names is None or len(names) != 1:
            self.refuse("architectures", "must name exactly one architecture")
        return names[0]

    def refuse_code(self) -> None:
        """Raises where the file asks to run code from the model directory or to undo another library's quantising."""
        for name, next_step in _CODE_FIELDS.items():
            if self.has(name):
                raise UnsupportedConfigError(f"config.json holds {name}, which Quire does not honour", next_step=next_step)

    def refuse_unread(self) -> None:
        """Raises UnsupportedConfigError for the fields that were neither read nor harmless."""
        for name in _ALWAYS_FALSE:
            self.require(name, False)
        unread = sorted(self._fields.keys() - self._read - HARMLESS_FIELDS)
        if unread:
            raise UnsupportedConfigError(
                "config.json holds fields that Quire does not know for this architecture",
                given=", ".join(shorten(f"{self._path}{name}={self._fields[name]!r}") for name in unread[:8]),
                next_step="Ignoring a field could change the model: report the field, or remove it if it has no effect.",
            )
        for section in self._sections.values():
            section.refuse_unread()

    def refuse(self, name: str, problem: str, limit: object = None) -> NoReturn:
        """Raises UnsupportedConfigError about one field."""
        raise UnsupportedConfigError(
            f"config.json: {self._path}{name} {problem}",
            given=shorten(repr(self._fields[name])) if name in self._fields else "nothing",
            limit=limit,
            next_step="Check that config.json is complete and belongs to a supported model.",
        )

    def _take(self, name: str, default: object) -> Any:
        self._read.add(name)
        value = self._fields.get(name, default)
        if value is None:
            self.refuse(name, "is missing")
        return value

    def _list(self, name: str) -> tuple[Any, ...] | None:
        self._read.add(name)
        value = self._fields.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) > MAX_LIST_ITEMS:
            self.refuse(name, "must be a list", f"{MAX_LIST_ITEMS} items")
        return tuple(value)


def read_config(directory: Path) -> Config:
    """Returns the configuration of a model directory.

    Raises ModelNotFoundError without the directory, ModelError without a readable `config.json` of at most 1 MiB.
    """
    if not directory.is_dir():
        raise ModelNotFoundError(
            "There is no such model directory", given=directory, next_step="Pass a directory with config.json."
        )
    path = directory / "config.json"
    if not path.is_file():
        raise ModelError("The model directory holds no config.json", given=directory, next_step="Pass a Hugging Face checkpoint.")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ModelError("config.json cannot be read", given=error.strerror, next_step="Check its permissions.") from error
    if len(content) > MAX_CONFIG_BYTES:
        raise ModelError("config.json is too large", limit=f"{MAX_CONFIG_BYTES} bytes", next_step="Restore the original file.")
    return parse_config(content)


def parse_config(content: bytes) -> Config:
    """Returns the configuration in the bytes of a `config.json`; raises ModelError unless they are one JSON object."""
    try:
        fields = parse_json(content)
    except ValueError as error:
        reason = shorten(str(error))
        raise ModelError("config.json is not valid JSON", given=reason, next_step="Restore the original file.") from error
    if not isinstance(fields, dict):
        raise ModelError("config.json is not a JSON object", given=type(fields).__name__, next_step="Restore the original file.")
    return Config(fields)


def _is_positive_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
