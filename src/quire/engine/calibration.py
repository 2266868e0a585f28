"""Which inputs matter, for weights that are quantized on loading: measured over a text once, then remembered."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from quire.config import Calibrate, EngineConfig, Quantize
from quire.engine.resolve import is_native_built, settled
from quire.errors import ConfigError, TokenizerError
from quire.executors.options import Importance
from quire.executors.packing import Encoding, PanelFormat
from quire.models.checkpoint import Checkpoint
from quire.models.group_format import ScaleType
from quire.models.weights import Progress
from quire.text.tokenizer import Tokenizer

MAX_TEXT_BYTES = 16 << 20
_log = logging.getLogger("quire")


def importance_for(
    checkpoint: Checkpoint, config: EngineConfig, formats: Mapping[str, PanelFormat], on_progress: Progress | None
) -> Importance | None:
    """Returns the importance that guides the rounding of a resolved configuration, None where nothing is guided by it.

    `on_progress(done, total)` counts layers. Raises ConfigError for a text that cannot be read or is too short. Without a
    tokenizer or compiled kernels there is no bundled calibration, which is logged.
    """
    if config.quantize is Quantize.NONE or config.calibrate is Calibrate.NONE or not any(map(_is_guided, formats.values())):
        return None
    is_bundled = isinstance(config.calibrate, Calibrate)
    if is_bundled and not is_native_built():
        _log.warning("Weights are quantized without calibration: that needs the compiled core.")
        return None
    from quire.quantize.calibration import BUNDLED, calibration_pieces
    from quire.quantize.importance import find_importance

    try:
        tokenizer = Tokenizer.from_model(checkpoint.directory)
    except TokenizerError as error:
        if not is_bundled:
            raise
        _log.warning("Weights are quantized without calibration, because the model has no usable tokenizer: %s.", error.problem)
        return None
    text = _read(BUNDLED if isinstance(config.calibrate, Calibrate) else config.calibrate)
    pieces = calibration_pieces(text, tokenizer, checkpoint.spec.max_context)
    return find_importance(checkpoint, pieces, settled(config.threads, "threads"), on_progress)


def _is_guided(panel_format: PanelFormat) -> bool:
    groups = panel_format.groups
    return panel_format.encoding is Encoding.ROTATED or (groups is not None and groups.scales is ScaleType.TWO_LEVEL)


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise ConfigError(
                "the text to calibrate with is too large",
                given=f"{path.stat().st_size} bytes",
                limit=f"{MAX_TEXT_BYTES} bytes",
                next_step="Name a text of a few pages.",
            )
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "the text to calibrate with cannot be read",
            given=str(path),
            next_step=f"Name a UTF-8 text file ({getattr(error, 'strerror', None) or 'it is not UTF-8'}).",
        ) from error
