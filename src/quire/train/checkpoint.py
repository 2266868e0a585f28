"""A run's state on disk, whole at every moment: what was saved last stays until its successor is safely written.

One safetensors file: parameters as `model.<name>`, moments as `optimizer.<name>.<moment>`, and in its metadata the step and
what the state depends on. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from quire.errors import CheckpointError

FORMAT = "quire-training-1"
_MODEL, _OPTIMIZER = "model.", "optimizer."


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingState:
    """Everything after `step` steps. `identity` names what must be the same to continue: data, tokenizer, shape, recipe."""

    step: int
    tokens: int
    seconds: float
    identity: Mapping[str, str]
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]


def save_state(state: TrainingState, path: Path) -> None:
    """Writes the state; a crash at any moment leaves the old file or the new one."""
    tensors = {_MODEL + name: tensor for name, tensor in state.model.items()}
    tensors |= {_OPTIMIZER + name: tensor for name, tensor in state.optimizer.items()}
    about = {"step": state.step, "tokens": state.tokens, "seconds": state.seconds, "identity": dict(state.identity)}
    content = save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        metadata={"format": FORMAT, "state": json.dumps(about)},
    )
    write_safely(path, content)


def write_safely(path: Path, content: bytes) -> None:
    """Writes a file so that its name always stands for a whole one: temporary file, fsync, rename, fsync of the directory."""
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def load_state(path: Path, device: str) -> TrainingState:
    """Returns the state that `save_state` wrote; raises CheckpointError if there is none or it is damaged."""
    try:
        with safe_open(str(path), framework="pt", device=device) as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise CheckpointError("not a training state", given=path, limit=FORMAT, next_step="Start the run again.")
            about = json.loads(metadata["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(
            "the training state cannot be read", given=f"{path}: {error}", next_step="Start the run again without --resume."
        ) from error
    return TrainingState(
        **about,
        model={name.removeprefix(_MODEL): value for name, value in tensors.items() if name.startswith(_MODEL)},
        optimizer={name.removeprefix(_OPTIMIZER): value for name, value in tensors.items() if name.startswith(_OPTIMIZER)},
    )
