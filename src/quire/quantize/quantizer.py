"""Quantizes a checkpoint layer by layer into a directory: the memory of one layer, and an interruption costs at most one.

For each layer, with the rows that the quantized layers before it produce: collect X^T X of what its products multiply, round
its matrices, write its shard, and run the quantized layer to get the rows for the next one. So every layer makes up for what
the layers before it lost.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from quire.arrays import Float32Array, Float64Array
from quire.executors.native import NUMERICS_VERSION, isa_in_use
from quire.executors.native_layer import INPUT_OF
from quire.models.checkpoint import Checkpoint
from quire.models.safetensors_file import open_safetensors
from quire.models.weights import SourceDType
from quire.quantize.gptq import Curvature, curvature_of, round_matrix, round_nearest
from quire.quantize.grid import Grid
from quire.quantize.layer_pass import Pieces, Residual, embed, input_of, layer_tensors
from quire.quantize.output import OutputDirectory
from quire.quantize.packed_format import (
    FileTensor,
    bits_per_weight,
    packed_tensors,
    plain_tensor,
    quantization_config,
    read_packed,
)
from quire.quantize.source import Naming, described, read_naming
from quire.text.tokenizer_copy import take_over_tokenizer

GROUP = 32
"""Inputs that share a scale: the smallest number that every reader of the format multiplies fast."""

METHOD_VERSION = 1
"""Raised whenever the same source and text give other codes than before."""

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is made: bits of a code, inputs that share a scale, and the text as tokens; without it codes are the nearest."""

    bits: int
    group: int
    pieces: Pieces
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixReport:
    """A matrix of the new checkpoint: bits per weight in its file, and the squared error as a share of the squared weights.

    `weighted_error` weighs every input by its mean square over the text; None without a text.
    """

    name: str
    num_weights: int
    bits: float
    error: float
    weighted_error: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeReport:
    """All matrices of the layers, and the bits of a weight over them, and over everything in the files."""

    matrices: tuple[MatrixReport, ...]
    layer_bits: float
    bits: float


def quantize_checkpoint(checkpoint: Checkpoint, job: Job, path: Path, on_progress: OnProgress | None = None) -> QuantizeReport:
    """Writes the quantized checkpoint into a new directory, or continues one that an interrupted run of the same job left.

    Raises ConfigError for any other directory that is not empty, UnsupportedConfigError for an architecture that the format
    cannot hold, and what reading the checkpoint raises.
    """
    spec = checkpoint.spec
    naming = read_naming(checkpoint)
    output = OutputDirectory(path, _key(checkpoint, job), spec.num_layers + 2)
    run = _Run(checkpoint, job, naming, output)
    residual = embed(checkpoint, job.pieces) if job.pieces else None
    reports: list[MatrixReport] = []
    for index in range(spec.num_layers):
        if on_progress is not None:
            on_progress("Quantizing layers", index, spec.num_layers)
        reports += run.layer(index, residual)
    run.tables()
    take_over_tokenizer(checkpoint.directory, path)
    num_bytes = output.finish(described(naming, spec, run.dtype) | {"quantization_config": run.section()})
    return _summary(reports, checkpoint, num_bytes)


class _Run:
    """One run over a checkpoint; shards: the embedding, every layer, and the end."""

    def __init__(self, checkpoint: Checkpoint, job: Job, naming: Naming, output: OutputDirectory) -> None:
        self._checkpoint, self._job, self._naming, self._output = checkpoint, job, naming, output
        is_half = checkpoint.weights.dtype is SourceDType.FLOAT16
        self.dtype = SourceDType.FLOAT16 if is_half else SourceDType.BFLOAT16
        self._grid = Grid(bits=job.bits, group=job.group, scale_dtype=self.dtype)

    def layer(self, index: int, residual: Residual | None) -> list[MatrixReport]:
        """Writes the shard of a layer unless it is there, and moves the rows past the layer."""
        tensors = layer_tensors(self._checkpoint, index)
        noted = self._output.finished(index + 1)
        reports = self._round(index, tensors, residual) if noted is None else [MatrixReport(**each) for each in noted["matrices"]]
        if residual is not None and index + 1 < self._checkpoint.spec.num_layers:
            for _ in residual.advanced(index, tensors | self._values(index, tensors), self._job.threads):
                pass
        return reports

    def _round(self, index: int, tensors: Mapping[str, Float32Array], residual: Residual | None) -> list[MatrixReport]:
        """Rounds the matrices of a layer and writes its shard."""
        curvatures = {} if residual is None else self._curvatures(index, tensors, residual)
        written: dict[str, FileTensor] = {}
        reports = []
        for name, parts in self._naming.parts(tensors).items():
            values = self._naming.joined(parts, tensors)
            if not self._fits(values.shape):
                written[name] = plain_tensor(values, self.dtype)
                continue
            curvature = curvatures.get(input_of(parts[0]))
            matrix = round_nearest(values, self._grid) if curvature is None else round_matrix(values, curvature, self._grid)
            packed = packed_tensors(name.removesuffix(".weight"), matrix, self._grid)
            written |= packed
            loss = _Loss(exact=values, found=matrix.values(self._grid.group), curvature=curvature)
            reports.append(loss.report(name, bits_per_weight(packed, values.shape)))
        self._output.write_shard(index + 1, written, {"matrices": [asdict(each) for each in reports]})
        return reports

    def _fits(self, shape: tuple[int, ...]) -> bool:
        """Whether the format holds a tensor of this shape in groups; others stay in 16 bits."""
        return len(shape) == 2 and shape[1] % self._grid.group == 0

    def _curvatures(self, index: int, tensors: Mapping[str, Float32Array], residual: Residual) -> dict[str, Curvature]:
        sums: dict[str, Float64Array] = {}
        for inputs in residual.observed(index, tensors, self._job.threads):
            for name in dict.fromkeys(INPUT_OF.values()):
                values: Float32Array = getattr(inputs, name)
                squares = (values.T @ values).astype(np.float64)
                sums[name] = sums[name] + squares if name in sums else squares
        num_tokens = sum(len(rows) for rows in residual.rows)
        return {name: curvature_of(squares, num_tokens) for name, squares in sums.items()}

    def _values(self, index: int, tensors: Mapping[str, Float32Array]) -> dict[str, Float32Array]:
        """Returns the quantized matrices of a layer, as its shard has them."""
        file = open_safetensors(self._output.path / self._output.shard_name(index + 1))
        values: dict[str, Float32Array] = {}
        for name, parts in self._naming.parts(tensors).items():
            if name not in file.entries:
                whole = read_packed(file, name.removesuffix(".weight"), self._grid).values(self._grid.group)
                ends = np.cumsum([len(tensors[part]) for part in parts])[:-1]
                values |= dict(zip(parts, map(np.ascontiguousarray, np.split(whole, ends)), strict=True))
        return values

    def tables(self) -> None:
        """Writes the embedding, and the final norm with the head, in 16 bits."""
        weights = self._checkpoint.weights
        first, *last = (name for name in self._checkpoint.spec.tensor_shapes() if not name.startswith("layers."))
        for index, names in ((0, [first]), (self._checkpoint.spec.num_layers + 1, last)):
            if self._output.finished(index) is None:
                found = {name: weights[name].to_float32() for name in names}
                plain = {
                    name: plain_tensor(self._naming.joined(parts, found), self.dtype)
                    for name, parts in self._naming.parts(names).items()
                }
                self._output.write_shard(index, plain, {})

    def section(self) -> dict[str, Any]:
        """Returns `quantization_config`; matrices that stayed in 16 bits are named in it."""
        shapes = self._checkpoint.spec.tensor_shapes()
        matrices = [name for name, shape in shapes.items() if name.startswith("layers.") and len(shape) == 2]
        modules = self._naming.parts(matrices)
        plain = [name for name, parts in modules.items() if not self._fits(shapes[parts[0]])]
        return quantization_config(self._grid, [*(name.removesuffix(".weight") for name in plain), "lm_head"])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loss:
    """A matrix, what became of it, and how much its inputs matter."""

    exact: Float32Array
    found: Float32Array
    curvature: Curvature | None

    def report(self, name: str, bits: float) -> MatrixReport:
        """Returns the figures of the matrix."""
        ones = np.ones(self.exact.shape[1], np.float32)
        return MatrixReport(
            name=name.removesuffix(".weight"),
            num_weights=self.exact.size,
            bits=bits,
            error=self._share(ones),
            weighted_error=None if self.curvature is None else self._share(self.curvature.importance),
        )

    def _share(self, importance: Float32Array) -> float:
        lost = float((np.square(self.found - self.exact).sum(axis=0, dtype=np.float64) * importance).sum())
        whole = float((np.square(self.exact).sum(axis=0, dtype=np.float64) * importance).sum())
        return lost / whole if whole else 0.0


def _summary(reports: list[MatrixReport], checkpoint: Checkpoint, num_bytes: int) -> QuantizeReport:
    layer_weights = sum(each.num_weights for each in reports)
    num_weights = sum(prod(shape) for shape in checkpoint.spec.tensor_shapes().values())
    return QuantizeReport(
        matrices=tuple(reports),
        layer_bits=sum(each.bits * each.num_weights for each in reports) / max(1, layer_weights),
        bits=8 * num_bytes / num_weights,
    )


def _key(checkpoint: Checkpoint, job: Job) -> str:
    """Returns the digest that two runs share only if they write the same codes."""
    facts = {
        "versions": [METHOD_VERSION, NUMERICS_VERSION, isa_in_use()],
        "weights": checkpoint.weights.fingerprint.hex(),
        "tokens": [list(piece) for piece in job.pieces],
        "grid": [job.bits, job.group],
    }
    return sha256(json.dumps(facts).encode()).hexdigest()
