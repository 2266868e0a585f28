"""The compiled core as a type: what is given it need not import it. Its parts are described in `native/_core.pyi`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from quire.native import _core


class Core(Protocol):
    """What is used of the compiled module."""

    PANEL: int
    GROUP: int
    PIECE_BYTES: int
    BusyError: type[_core.BusyError]
    ForkedError: type[_core.ForkedError]

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
    PackLayout: type[_core.PackLayout]
    QKNorm: type[_core.QKNorm]
    WeightFormat: type[_core.WeightFormat]

    def available_isas(self) -> list[str]: ...
    def int_layout(self, isa: str) -> _core.PackLayout: ...
    def measure_bandwidth(self, isa: str, threads: int, num_bytes: int, rounds: int) -> float: ...
    def measure_flops(self, isa: str, threads: int, weight_format: _core.WeightFormat, rounds: int) -> float: ...
    def uniform(self, seed: int, position: int) -> float: ...
