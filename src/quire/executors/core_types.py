"""The compiled core as a type: what is given it need not import it. Its parts are described in `native/_core.pyi`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from quire.native import _core


class ReadSpeed(Protocol):
    """How fast a buffer was read in one pattern."""

    @property
    def prefetch(self) -> _core.Prefetch: ...
    @property
    def in_streams(self) -> bool: ...
    @property
    def in_halves(self) -> bool: ...
    @property
    def bytes_per_second(self) -> float: ...


class Core(Protocol):
    """What is used of the compiled module."""

    PANEL: int
    GROUP: int
    PIECE_BYTES: int
    BusyError: type[_core.BusyError]
    ForkedError: type[_core.ForkedError]
    NotFiniteError: type[_core.NotFiniteError]

    Decoder: type[_core.Decoder]
    ModelShape: type[_core.ModelShape]
    FfnShape: type[_core.FfnShape]
    LayerShape: type[_core.LayerShape]
    Rope: type[_core.Rope]
    BatchSampler: type[_core.BatchSampler]
    DrawMethod: type[_core.DrawMethod]
    RowChoice: type[_core.RowChoice]

    Activation: type[_core.Activation]
    KVFormat: type[_core.KVFormat]
    NormKind: type[_core.NormKind]
    NormPlacement: type[_core.NormPlacement]
    Prefetch: type[_core.Prefetch]
    QKNorm: type[_core.QKNorm]

    Encoding: type[_core.Encoding]
    ScaleType: type[_core.ScaleType]
    Offset: type[_core.Offset]
    GroupFormat: type[_core.GroupFormat]
    PanelFormat: type[_core.PanelFormat]

    def available_isas(self) -> list[str]: ...
    def has_amx(self, isa: str) -> bool: ...
    def measure_reads(self, isa: str, threads: int, num_bytes: int, rounds: int) -> list[_core.ReadSpeed]: ...
    def measure_flops(self, isa: str, threads: int, panel_format: _core.PanelFormat, rounds: int) -> float: ...
    def uniform(self, seed: int, position: int) -> float: ...
