"""A run's state on disk, complete at every moment: the last saved state stays until its successor is safely written.

One safetensors file: parameters as `model.<name>`, moments as `optimizer.<name>.<moment>`, and in its metadata the step and
what the state depends on. Nothing is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from quire.errors import CheckpointError
from quire.files import replacing

FORMAT = "quire-training-1"
_MODEL, _OPTIMIZER = "model.", "optimizer."
_MAX_SHOWN = 120  # characters of a value


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingState:
    """The state after `step` steps. `identity` names what must be unchanged to continue: data, tokenizer, shape, recipe."""

    step: int
    tokens: int
    seconds: float
    identity: Mapping[str, str]
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]


def save_state(state: TrainingState, path: Path) -> None:
    """Writes the state; a crash at any moment leaves the old file or the new one. Raises CheckpointError if it cannot."""
    tensors = {_MODEL + name: tensor for name, tensor in state.model.items()}
    tensors |= {_OPTIMIZER + name: tensor for name, tensor in state.optimizer.items()}
    about = {"step": state.step, "tokens": state.tokens, "seconds": state.seconds, "identity": dict(state.identity)}
    content = save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        metadata={"format": FORMAT, "state": json.dumps(about)},
    )
    write_safely(path, content)


def write_safely(path: Path, content: bytes) -> None:
    """Writes a file so that its name always refers to a complete one: see `replacing`.

    Raises CheckpointError if the operating system refuses; an old file stays untouched.
    """
    try:
        with replacing(path) as part:
            part.write_bytes(content)
    except OSError as error:
        raise CheckpointError(
            "the state of the training run cannot be written",
            given=f"{path}: {error.strerror or error}",
            next_step="Free some space there, or check its permissions.",
        ) from error


def load_state(path: Path, device: str) -> TrainingState:
    """Returns the state that `save_state` wrote; raises CheckpointError if there is none or it is damaged."""
    try:
        with safe_open(str(path), framework="pt", device=device) as file:
            metadata = file.metadata() or {}
            about: dict[str, Any] = json.loads(metadata["state"]) if metadata.get("format") == FORMAT else {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        return TrainingState(**about, model=_below(_MODEL, tensors), optimizer=_below(_OPTIMIZER, tensors))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            "the training state cannot be read",
            given=f"{path}: {error}",
            limit=FORMAT,
            next_step="Start a new run in another directory.",
        ) from error


def check_identity(state: TrainingState, identity: Mapping[str, str]) -> None:
    """Raises CheckpointError for the first item that has changed since the state was saved."""
    for name, value in identity.items():
        saved = state.identity.get(name, "")
        if saved != value:
            given, limit = _differences(value, saved)
            raise CheckpointError(
                f"the run cannot continue bit for bit: its {name} has changed",
                given=given,
                limit=limit,
                next_step="Restore it, or start another run.",
            )


def _differences(value: str, saved: str) -> tuple[str, str]:
    """Returns the differences as text, now and saved: the differing fields of JSON objects, or the whole values."""
    try:
        ours, theirs = json.loads(value), json.loads(saved)
        names = [name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)]
        shown = [", ".join(f"{name} {fields.get(name)}" for name in sorted(names)) for fields in (ours, theirs)]
    except (ValueError, AttributeError):
        shown = [value, saved]
    return shown[0][:_MAX_SHOWN], shown[1][:_MAX_SHOWN]


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
