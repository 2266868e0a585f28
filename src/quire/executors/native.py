"""The native executor: the compiled core behind the `Executor` protocol. The core is imported here alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from quire.arrays import Float32Array, Int32Array
from quire.config import KVFormat, WeightFormat
from quire.environment import read_environment
from quire.errors import ExecutorUnavailableError
from quire.executors import prefetch
from quire.executors.checks import check_weights
from quire.executors.core_errors import translated_errors
from quire.executors.core_types import Core
from quire.executors.host import FinishedStep
from quire.executors.kv_blocks import BlockFormat, PageOrder
from quire.executors.native_sampler import NativeSampler
from quire.executors.native_shape import panel_formats, shape_of
from quire.executors.options import ExecutorOptions, calibration_name
from quire.executors.packed_cache import PackedFile, packed_key
from quire.executors.packing import Encoding, PackLayout, matrix_formats, weights_by_format
from quire.executors.protocol import ArgmaxTokens, StepBatch
from quire.executors.rotation import input_factors
from quire.executors.work_counts import WorkCounts
from quire.models.group_format import GroupBlocks
from quire.models.spec import ModelSpec
from quire.models.weights import Progress, SourceTensor, Weights
from quire.sample.definition import RowToken
from quire.sample.filters import SampleRow

NUMERICS_VERSION = 8
"""Raised whenever a kernel change could change a bit; part of every cache key."""

_CORE_FORMATS: Mapping[KVFormat, str] = MappingProxyType(
    {
        KVFormat.FLOAT32: "F32",
        KVFormat.BFLOAT16: "BF16",
        KVFormat.INT8: "INT8",
        KVFormat.INT8_INT4: "INT8_INT4",
        KVFormat.INT4: "INT4",
    }
)


class NativeExecutor:
    """Runs steps on the compiled core, over its own packed weights and paged K/V memory, and samples on the same threads.

    `options.threads` workers split outputs, never a sum, so their number changes no bit. `on_progress(done, total)` is called
    with the number of tensors packed. With a `packed_cache`, matrices that an earlier start packed are read from there: the
    same bits. A forked process computes on with threads of its own, and shares the weights' memory with its parent; only
    where the fork came during a call of another thread, every later call there raises ExecutorError. Raises
    ExecutorUnavailableError where the core was not compiled.
    """

    def __init__(self, spec: ModelSpec, weights: Weights, options: ExecutorOptions, on_progress: Progress | None = None) -> None:
        core = load_core()
        check_weights(spec, weights)
        self.spec = spec
        self.layout = options.layout
        self.num_blocks = options.num_blocks
        self.num_own_tiles = options.num_own_tiles
        self._options = options
        self._core = core
        self._formats = matrix_formats(spec, weights, options.weight_format, int_layout())
        with translated_errors(core):
            rest, isa = core.PanelFormat(), chosen_isa(core)
            self._decoder = core.Decoder(shape_of(core, spec), rest, panel_formats(core, self._formats), isa, options.threads)
            self._sampler = NativeSampler(core, core.BatchSampler(self._decoder))
        self._set_input_factors()
        self._load(weights, on_progress)
        where = prefetch.circumstances(self._decoder.isa, self._weights_in_words(), options.threads)
        self.prefetch = prefetch.choose(where, self._probe_prefetch)
        self._decoder.prefetch = core.Prefetch[self.prefetch.pattern.name]
        self._allocate_kv()
        self._blocks = BlockFormat(layout=self.layout, order=PageOrder.TILES, num_bytes=self.layout.bytes_per_block)

    @property
    def name(self) -> str:
        return f"native ({self._decoder.isa})"

    @property
    def numerics(self) -> str:
        weights = self._options.weight_format.value
        if self._options.weight_format in (WeightFormat.INT8, WeightFormat.INT4):
            weights += f" by {calibration_name(self._options.importance)}"
        return f"native-{NUMERICS_VERSION} {self._decoder.isa} weights={weights} kv={self.layout.name}"

    @property
    def weight_bytes(self) -> int:
        """Bytes of packed weights in memory."""
        return int(self._decoder.weight_bytes)

    @property
    def layer_bytes(self) -> int:
        """Bytes of packed weights without the embedding and the head, which the core keeps first."""
        num_tables = 1 if self.spec.is_head_tied else 2
        return sum(self._decoder.packed_sizes()[num_tables:])

    @property
    def kv_bytes(self) -> int:
        return int(self._decoder.kv_bytes)

    def run(self, batch: StepBatch) -> Float32Array:
        with translated_errors(self._core):
            logits = np.empty((len(batch.sample_rows), self.spec.vocab_size), np.float32)
            self._decoder.run(
                batch.token_ids,
                batch.positions,
                batch.query_start,
                batch.context_lens,
                batch.block_tables,
                batch.slot_mapping,
                batch.sample_rows,
                logits,
                batch.own_tiles,
            )
        return logits

    def submit(self, batch: StepBatch) -> FinishedStep:
        """Runs a step on the caller's thread and the executor's own."""
        return FinishedStep(self.run(batch))

    def head(self, rows: Int32Array) -> Float32Array:
        with translated_errors(self._core):
            logits = np.empty((len(rows), self.spec.vocab_size), np.float32)
            self._decoder.head(np.ascontiguousarray(rows, np.int32), logits)
        return logits

    def argmax(self, rows: Int32Array) -> ArgmaxTokens:
        """Returns the argmax of rows of the latest step, found a few panels at a time inside the product with the head."""
        found = ArgmaxTokens(token_ids=np.empty(len(rows), np.int32), num_not_finite=np.empty(len(rows), np.int32))
        with translated_errors(self._core):
            self._decoder.argmax(np.ascontiguousarray(rows, np.int32), found.token_ids, found.num_not_finite)
        return found

    def sample(self, logits: Float32Array, rows: Sequence[SampleRow]) -> list[RowToken]:
        return self._sampler.sample(logits, rows)

    def score(self, logits: Float32Array, token_ids: Sequence[int], num_top: int) -> list[RowToken]:
        return self._sampler.score(logits, token_ids, num_top)

    def read_kv(self, layer: int, slots: Int32Array) -> tuple[Float32Array, Float32Array]:
        shape = (len(slots), self.spec.num_kv_heads, self.spec.head_dim)
        keys, values = np.empty(shape, np.float32), np.empty(shape, np.float32)
        with translated_errors(self._core):
            self._decoder.read_kv(layer, np.ascontiguousarray(slots, np.int32), keys, values)
        return keys, values

    def copy_block(self, source: int, target: int) -> None:
        with translated_errors(self._core):
            self._decoder.copy_block(source, target)

    def copy_own_tile(self, source: int, target: int) -> None:
        with translated_errors(self._core):
            self._decoder.copy_own_tile(source, target)

    def export_block(self, block: int) -> bytes:
        with translated_errors(self._core):
            pages = self._decoder.export_block(block)
        return self._blocks.packed(pages)

    def import_block(self, block: int, data: bytes) -> None:
        pages = self._blocks.pages_of(data)
        with translated_errors(self._core):
            self._decoder.import_block(block, pages)

    def start_counting(self) -> None:
        """Counts multiply-adds from now on."""
        with translated_errors(self._core):
            self._decoder.start_counting()

    def stop_counting(self) -> WorkCounts:
        """Returns what was counted since `start_counting`."""
        with translated_errors(self._core):
            projections, scores, mixing, head = self._decoder.stop_counting()
        return WorkCounts(projections=projections, scores=scores, mixing=mixing, head=head)

    def _allocate_kv(self) -> None:
        layout = self.layout
        with translated_errors(self._core):
            self._decoder.allocate_kv(
                self.num_blocks,
                layout.block_size,
                self._core.KVFormat[_CORE_FORMATS[layout.format]],
                layout.bytes_per_block,
                list(layout.exact_key_layers),
                self.num_own_tiles,
                layout.bytes_per_own_tile,
            )

    def _weights_in_words(self) -> str:
        """Returns how matrices lie in memory; of stored formats, which may be a mix, the one of most weights."""
        weight_format = self._options.weight_format
        if weight_format is WeightFormat.STORED:
            return next(iter(weights_by_format(self.spec, self._formats))).description
        return str(weight_format.value)

    def _probe_prefetch(self) -> prefetch.Prefetch | None:
        """Returns None for weights that are too small to be read from memory."""
        decoder = self._decoder
        if decoder.weight_bytes < prefetch.MIN_WEIGHT_BYTES:
            return None
        num_regions = decoder.divide_weights(prefetch.NUM_REGIONS, prefetch.REGION_BYTES)

        def read(region: int, pattern: prefetch.Prefetch) -> float:
            return decoder.read_seconds(region, self._core.Prefetch[pattern.name])

        return prefetch.fastest(read, num_regions)

    def _load(self, weights: Weights, on_progress: Progress | None) -> None:
        directory = self._options.packed_cache
        if directory is None:
            self._pack(weights, on_progress)
            return
        key = packed_key(
            self._core,
            self._decoder,
            weights_fingerprint=weights.fingerprint + calibration_name(self._options.importance).encode(),
            formats=self._formats,
            numerics_version=NUMERICS_VERSION,
        )
        file = PackedFile(directory, key, self._core, self._decoder)
        if file.restore(on_progress):
            self._pack({name: tensor for name, tensor in weights.items() if _is_vector(name, tensor)}, None)
        else:
            self._pack(weights, on_progress)
            file.store()

    def _pack(self, weights: Mapping[str, SourceTensor], on_progress: Progress | None) -> None:
        for done, (name, tensor) in enumerate(weights.items(), start=1):
            with translated_errors(self._core):
                if _is_vector(name, tensor):
                    self._decoder.set_vector(name, tensor.to_float32().reshape(-1))
                else:
                    self._set_matrix(name, tensor)
            if on_progress is not None:
                on_progress(done, len(weights))

    def _set_input_factors(self) -> None:
        """Tells the core what inputs are multiplied by before they are rotated."""
        for name, importance in (self._options.importance or {}).items():
            if self._formats[name].encoding is Encoding.ROTATED:
                self._decoder.set_input_factors(name, input_factors(importance))

    def _set_matrix(self, name: str, tensor: SourceTensor) -> None:
        """Packs a matrix: as the checkpoint holds it where that is its format, else from its values."""
        is_stored = self._options.weight_format is WeightFormat.STORED and self._formats[name].encoding is Encoding.GROUPS
        groups = tensor.to_groups() if is_stored else None
        if groups is None:
            self._decoder.set_matrix(name, tensor.to_packable(), (self._options.importance or {}).get(name))
        elif isinstance(groups, GroupBlocks):
            self._decoder.set_blocks(name, groups.number, groups.blocks)
        else:
            self._decoder.set_groups(name, groups.codes, groups.scales, groups.minimums, groups.zero_points)


def load_core() -> Core:
    """Returns the compiled module; raises ExecutorUnavailableError where it was not built."""
    try:
        from quire.native import _core
    except ImportError as error:
        raise ExecutorUnavailableError(
            "the native core is not compiled here",
            next_step="Install a C++17 compiler and CMake and reinstall Quire, or use executor='reference'.",
        ) from error
    return _core


def available_isas() -> tuple[str, ...]:
    """Returns the instruction sets this machine can run, slowest first; empty where the core was not built."""
    try:
        return tuple(load_core().available_isas())
    except ExecutorUnavailableError:
        return ()


def isa_in_use() -> str:
    """Returns the instruction set that executors compute with; raises ExecutorUnavailableError where nothing is compiled."""
    core = load_core()
    return chosen_isa(core) or core.available_isas()[-1]


def int_layout() -> PackLayout:
    """Returns the layout in which the chosen instruction set packs int8; VNNI's where nothing is compiled."""
    if not available_isas():
        return PackLayout.VNNI
    core = load_core()
    return PackLayout.AMX if core.has_amx(chosen_isa(core)) else PackLayout.VNNI


def native_sampler(threads: int) -> NativeSampler:
    """Returns a sampler without a model, on threads of its own; raises ExecutorUnavailableError where no core was built."""
    core = load_core()
    with translated_errors(core):
        return NativeSampler(core, core.BatchSampler(chosen_isa(core), threads))


def chosen_isa(core: Core) -> str:
    """Returns the instruction set that QUIRE_ISA names, or an empty text: the fastest."""
    isa = read_environment().isa
    if isa is not None and isa not in core.available_isas():
        raise ExecutorUnavailableError(
            "this machine cannot run the instruction set in QUIRE_ISA",
            given=isa,
            limit=", ".join(core.available_isas()),
            next_step="Unset QUIRE_ISA or choose one of these.",
        )
    return isa or ""


def _is_vector(name: str, tensor: SourceTensor) -> bool:
    return len(tensor.shape) == 1 or name == "position.weight"
