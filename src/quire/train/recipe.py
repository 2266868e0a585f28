"""A training run's definition: its data, and every number that determines the result. Both are saved with the run and read back
to continue it. Does not need torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from quire.config import MAX_COUNT, DType
from quire.environment import MAX_THREADS
from quire.errors import ConfigError

MAX_EPOCHS = 100_000
"""Epochs are planned before the first step; a longer run is given as a number of steps."""

COUNT_LIMITS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "batch_tokens": (1, MAX_COUNT),
        "accumulate": (1, MAX_COUNT),
        "steps": (1, MAX_COUNT),
        "epochs": (1, MAX_EPOCHS),
        "warmup_steps": (0, MAX_COUNT),
        "validate_every": (1, MAX_COUNT),
        "threads": (1, MAX_THREADS),
        "seed": (0, 2**64 - 1),  # torch's range
    }
)
"""The smallest and the largest value of every count, here and on the command line."""


class OptimizerKind(Enum):
    """The optimizer."""

    ADAMW = "adamw"
    MUON = "muon"  # matrices by Muon (orthogonalized momentum), the rest by AdamW


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to learn and what to start from.

    With `model`, training starts from its weights, shape and tokenizer. Otherwise weights are random, the shape is the file
    `config` or DEFAULT_CONFIG, and the tokenizer is that of the directory `tokenizer`, or a new one of `vocab_size` tokens.
    `validation` names files to validate on, instead of a share of `data`.
    """

    data: tuple[str, ...]
    validation: tuple[str, ...] = ()
    model: str | None = None
    config: str | None = None
    tokenizer: str | None = None
    vocab_size: int = 4096
    max_context: int | None = None

    def to_json(self) -> str:
        """Returns the job as a JSON object."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_file(cls, path: Path) -> Job:
        """Returns the job that `to_json` wrote; raises ConfigError if the file is not one."""
        try:
            fields = _read_object(path)
            fields |= {name: tuple(fields[name]) for name in ("data", "validation") if name in fields}
            return cls(**fields)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _nothing_to_continue(path, error) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The numbers of one run.

    A step learns from `accumulate` batches of `batch_tokens` tokens. The rate rises for `warmup_steps`, then falls along a cosine
    to `final_rate_share` of `learning_rate`. `steps` None means `epochs` passes over the data.
    """

    batch_tokens: int = 8192
    accumulate: int = 1
    steps: int | None = None
    epochs: int = 1
    optimizer: OptimizerKind = OptimizerKind.ADAMW
    learning_rate: float = 1e-3
    final_rate_share: float = 0.1
    warmup_steps: int = 100
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    precision: DType = DType.BFLOAT16
    validation_share: float = 0.01
    validate_every: int = 250
    save_minutes: float = 10.0
    seed: int = 0
    threads: int = 1
    device: str = "cpu"
    compile: bool = False

    def __post_init__(self) -> None:
        for name, (least, most) in COUNT_LIMITS.items():
            value = getattr(self, name)
            self._require(name, value is None or least <= value <= most, f"{least} to {most}")
        for name in ("learning_rate", "clip_norm", "save_minutes"):
            self._require(name, 0 < getattr(self, name) < math.inf, "above 0, and finite")
        self._require("weight_decay", 0 <= self.weight_decay < math.inf, "at least 0, and finite")
        self._require("final_rate_share", 0 <= self.final_rate_share <= 1, "0 to 1")
        self._require("validation_share", 0 <= self.validation_share <= 0.5, "0 to 0.5")

    def _require(self, name: str, is_met: bool, limit: str) -> None:
        if not is_met:
            raise ConfigError(
                f"{name} is out of range", given=getattr(self, name), limit=limit, next_step="Choose another value."
            )

    def to_json(self) -> str:
        """Returns the recipe as a JSON object."""
        fields = asdict(self) | {"optimizer": self.optimizer.value, "precision": self.precision.value}
        return json.dumps(fields, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_file(cls, path: Path) -> Recipe:
        """Returns the recipe that `to_json` wrote; raises ConfigError if the file is not one."""
        try:
            fields = _read_object(path)
            kinds = {"optimizer": OptimizerKind(fields["optimizer"]), "precision": DType(fields["precision"])}
            return cls(**(fields | kinds))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _nothing_to_continue(path, error) from error


def _read_object(path: Path) -> dict[str, Any]:
    fields = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(fields, dict):
        raise ValueError("not a JSON object")
    return fields


def _nothing_to_continue(path: Path, error: Exception) -> ConfigError:
    return ConfigError(
        "there is no training run to continue",
        given=f"{path}: {getattr(error, 'strerror', None) or error}",
        next_step="Name the output directory of an interrupted run.",
    )
