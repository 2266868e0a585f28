"""The small model that comes with Quire, so that everything works without a download."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from quire.errors import ModelNotFoundError


def directory() -> Path:
    """Returns the directory of the bundled model; raises ModelNotFoundError if this installation has none."""
    path = Path(str(files(__name__)))
    if not (path / "config.json").is_file():
        raise ModelNotFoundError(
            "this installation carries no bundled model", next_step="Name a model directory or a Hugging Face id."
        )
    return path
