"""Compares the tensors that a spec needs with those that the files hold: one error names all that do not fit."""

from __future__ import annotations

from collections.abc import Mapping

from quire.errors import CheckpointError
from quire.models.source import TensorSource
from quire.models.spec import ModelSpec
from quire.models.strict_json import shorten

_MAX_SHOWN = 8


def expected_shapes(spec: ModelSpec, sources: Mapping[str, TensorSource]) -> dict[str, tuple[int, ...]]:
    """Returns source name -> shape in the file. A joined matrix ends where the last part taken from it ends."""
    shapes: dict[str, tuple[int, ...]] = {}
    num_rows: dict[str, int] = {}
    for canonical, shape in spec.tensor_shapes().items():
        source = sources[canonical]
        stop = shape[0] if source.rows is None else source.rows[1]
        num_rows[source.name] = max(stop, num_rows.get(source.name, 0))
        whole = (num_rows[source.name], *shape[1:])
        shapes[source.name] = whole[::-1] if source.is_transposed else whole
    return shapes


def require_none(problem: str, findings: Mapping[str, list[str]], *, next_step: str, limit: str | None = None) -> None:
    """Raises CheckpointError if there are findings: by what is wrong (such as missing), the tensors that it holds for."""
    if any(findings.values()):
        listed = "; ".join(f"{what}: {_enumerate(found)}" for what, found in findings.items() if found)
        raise CheckpointError(f"{problem}: {listed}", limit=limit, next_step=next_step)


def _enumerate(findings: list[str]) -> str:
    shown = ", ".join(shorten(ascii(finding)[1:-1], 160) for finding in findings[:_MAX_SHOWN])
    return shown if len(findings) <= _MAX_SHOWN else f"{shown} and {len(findings) - _MAX_SHOWN} more"
