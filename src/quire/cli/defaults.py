"""Default sampling parameters: the model's recommendation in `generation_config.json`, else greedy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from quire.cli.options import SamplingOptions
from quire.errors import ModelError, SamplingError
from quire.models.strict_json import parse_json, shorten
from quire.request import SamplingParams
from quire.units import MIB

FILE_NAME = "generation_config.json"
MAX_FILE_BYTES = MIB
_DRAWING = ("temperature", "top_p", "top_k", "min_p")
_OFF: Mapping[str, object] = MappingProxyType({"top_p": 1, "top_k": 0, "min_p": 0, "n": 1})
_ANY = (*_DRAWING, "repetition_penalty")
_NEUTRAL: Mapping[str, float] = MappingProxyType({"top_p": 1, "top_k": 0, "min_p": 0, "repetition_penalty": 1})

_UNAPPLIED: Mapping[str, object] = MappingProxyType(
    {
        "bad_words_ids": [],
        "begin_suppress_tokens": [],
        "encoder_repetition_penalty": 1,
        "exponential_decay_length_penalty": [],
        "forced_bos_token_id": None,
        "forced_decoder_ids": [],
        "forced_eos_token_id": None,
        "guidance_scale": 1,
        "max_length": None,
        "max_new_tokens": None,
        "max_time": None,
        "min_length": 0,
        "min_new_tokens": 0,
        "no_repeat_ngram_size": 0,
        "num_beams": 1,
        "penalty_alpha": 0,
        "sequence_bias": [],
        "stop_strings": [],
        "suppress_tokens": [],
        "token_healing": False,
        "watermarking_config": {},
    }
)
"""What `transformers` would apply and Quire does not, each with its neutral value."""

_UNAPPLIED_DRAWING: Mapping[str, object] = MappingProxyType({"epsilon_cutoff": 0, "eta_cutoff": 0, "top_h": 1, "typical_p": 1})
"""The same for numbers that have an effect only with `do_sample`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingDefaults:
    """A model's recommendation. Without `do_sample` it is greedy, and the numbers for sampling have no effect.

    `unapplied` names the fields that ask for something Quire does not do.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    unapplied: tuple[str, ...] = ()

    @property
    def recommended(self) -> dict[str, float]:
        """The numbers for requests that leave them out: those of a model that draws, else the repetition penalty alone."""
        names = _ANY if self.temperature != 0 else ("repetition_penalty",)
        return {name: getattr(self, name) for name in names if getattr(self, name) != _NEUTRAL.get(name)}

    def params(self, options: SamplingOptions) -> SamplingParams:
        """Returns the sampling parameters: the user's options first, then the model's recommendation.

        Greedy decoding drops the model's numbers for sampling; the user's stay and raise SamplingError as contradictions.
        """
        given = {name: value for name, value in asdict(options).items() if value is not None}
        self._require_temperature(given)
        recommended = {name: getattr(self, name) for name in _ANY}
        if given.get("temperature", self.temperature) == 0:
            recommended = {"temperature": 0.0, "repetition_penalty": self.repetition_penalty}
        return SamplingParams(**({"max_tokens": None} | recommended | given))

    def _require_temperature(self, given: dict[str, Any]) -> None:
        """Raises SamplingError if the user asks for random sampling without a temperature and the model's default is greedy."""
        if self.temperature != 0 or "temperature" in given:
            return
        unused = [name for name, off in _OFF.items() if given.get(name, off) not in (off, -1)]
        if unused:
            raise SamplingError(
                f"without a temperature this model takes the most likely token and ignores {', '.join(unused)}",
                given=", ".join(f"{name}={given[name]}" for name in unused),
                next_step="Add --temperature, for example --temperature 0.7.",
            )


def read_defaults(directory: Path) -> SamplingDefaults:
    """Returns the recommendation in a model directory; raises ModelError if the file exists and is damaged."""
    path = directory / FILE_NAME
    if not path.is_file():
        return SamplingDefaults()
    fields = _read(path)
    is_drawing = fields.get("do_sample") is True
    names = _ANY if is_drawing else ("repetition_penalty",)
    chosen = {name: fields[name] for name in names if fields.get(name) is not None}
    if is_drawing:
        chosen.setdefault("temperature", 1.0)
    try:
        SamplingParams(**_usable(chosen))
    except SamplingError as error:
        raise ModelError(
            f"{FILE_NAME} holds an invalid recommendation: {error.problem}",
            given=error.given,
            next_step="Correct or remove the file.",
        ) from error
    known = {**_UNAPPLIED, **(_UNAPPLIED_DRAWING if is_drawing else {})}
    unapplied = tuple(name for name, neutral in known.items() if fields.get(name) not in (None, neutral))
    return SamplingDefaults(**_usable(chosen), unapplied=unapplied)


def _usable(chosen: dict[str, Any]) -> dict[str, Any]:
    """Returns the numbers, without those for sampling if the temperature is 0."""
    if chosen.get("temperature", 0) == 0:
        return {name: value for name, value in chosen.items() if name == "repetition_penalty"} | {"temperature": 0.0}
    return chosen


def _read(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    try:
        fields = parse_json(content) if len(content) <= MAX_FILE_BYTES else None
    except ValueError as error:
        raise _damaged(shorten(str(error))) from error
    if not isinstance(fields, dict):
        raise _damaged("not a JSON object, or too large")
    return fields


def _damaged(reason: str) -> ModelError:
    return ModelError(f"{FILE_NAME} is damaged", given=reason, next_step="Download the file again or remove it.")
