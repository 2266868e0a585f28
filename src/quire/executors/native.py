"""The native executor: the compiled core behind the `Executor` protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from quire.config import DType, IntegerForm, KVFormat, Quantize, WeightFormat
from quire.environment import read_environment
from quire.errors import ExecutorUnavailableError
from quire.executors.checks import check_weights
from quire.executors.core_errors import translated_errors
from quire.executors.packed_cache import PackedFile, packed_key
from quire.executors.protocol import ArgmaxTokens, Float32Array, Int32Array, StepBatch
from quire.kv.layout import KVLayout
from quire.models.spec import DenseFfn, FfnKind, LayerSpec, ModelSpec, RopeSpec
from quire.models.weights import SourceDType, SourceTensor, Weights

NUMERICS_VERSION = 7
"""Raised whenever a kernel change could change a bit; part of every cache key."""

_UNBOUNDED_WINDOW = 2**31 - 1


class NativeExecutor:
    """Runs steps on the compiled core, over its own packed weights and paged K/V memory.

    `threads` workers split outputs, never a sum, so their number changes no bit. `on_progress(done, total)` is called
    with the number of tensors packed. With `packed_cache`, a directory, matrices that an earlier start packed are read from
    there: the same bits. A forked process computes on with threads of its own, and shares the weights' memory with its parent;
    only where the fork came during a step of another thread, every later call there raises ExecutorError. Raises
    ExecutorUnavailableError where the core was not compiled.
    """

    def __init__(  # noqa: PLR0913 - what an executor is made of; one value each
        self,
        spec: ModelSpec,
        weights: Weights,
        *,
        layout: KVLayout,
        num_blocks: int,
        dtype: DType,
        quantize: Quantize = Quantize.NONE,
        threads: int = 1,
        packed_cache: Path | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        core = load_core()
        self.spec = spec
        self.layout = layout
        self.num_blocks = num_blocks
        self._weight_format = WeightFormat.of(dtype, quantize)
        self._core = core
        with translated_errors(core):
            self._decoder = core.Decoder(_shape_of(core, spec), packed_as(core, self._weight_format), _chosen_isa(core), threads)
        check_weights(spec, weights)
        if packed_cache is None:
            self._pack(weights, on_progress)
        else:
            self._restore_or_pack(weights, packed_cache, on_progress)
        with translated_errors(core):
            self._decoder.allocate_kv(num_blocks, layout.block_size, _element(core, layout.format))

    @property
    def name(self) -> str:
        return f"native ({self._decoder.isa})"

    @property
    def numerics(self) -> str:
        return f"native-{NUMERICS_VERSION} {self._decoder.isa} weights={self._weight_format.value} kv={self.layout.format.value}"

    @property
    def weight_bytes(self) -> int:
        """Bytes of packed weights in memory."""
        return int(self._decoder.weight_bytes)

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
            )
        return logits

    def head(self, rows: Int32Array) -> Float32Array:
        with translated_errors(self._core):
            logits = np.empty((len(rows), self.spec.vocab_size), np.float32)
            self._decoder.head(np.ascontiguousarray(rows, np.int32), logits)
        return logits

    def argmax(self, rows: Int32Array) -> ArgmaxTokens:
        """Returns the argmax of rows of the latest step, found a few panels at a time inside the product with the head."""
        found = ArgmaxTokens(token_ids=np.empty(len(rows), np.int32), num_not_finite=np.empty(len(rows), np.int32))
        with translated_errors(self._core):
            self._decoder.best(np.ascontiguousarray(rows, np.int32), found.token_ids, found.num_not_finite)
        return found

    def read_kv(self, layer: int, slots: Int32Array) -> tuple[Float32Array, Float32Array]:
        shape = (len(slots), self.spec.num_kv_heads, self.spec.head_dim)
        keys, values = np.empty(shape, np.float32), np.empty(shape, np.float32)
        with translated_errors(self._core):
            self._decoder.read_kv(layer, np.ascontiguousarray(slots, np.int32), keys, values)
        return keys, values

    def copy_block(self, source: int, target: int) -> None:
        with translated_errors(self._core):
            self._decoder.copy_block(source, target)

    def _restore_or_pack(self, weights: Weights, directory: Path, on_progress: Callable[[int, int], None] | None) -> None:
        key = packed_key(
            self._core,
            self._decoder,
            weights_fingerprint=weights.fingerprint,
            weight_format=self._weight_format.value,
            numerics_version=NUMERICS_VERSION,
        )
        file = PackedFile(directory, key, self._core, self._decoder)
        if file.restore(on_progress):
            self._pack({name: tensor for name, tensor in weights.items() if _is_vector(name, tensor)}, None)
        else:
            self._pack(weights, on_progress)
            file.store()

    def _pack(self, weights: Mapping[str, SourceTensor], on_progress: Callable[[int, int], None] | None) -> None:
        for done, (name, tensor) in enumerate(weights.items(), start=1):
            with translated_errors(self._core):
                if _is_vector(name, tensor):
                    self._decoder.set_vector(name, tensor.to_float32().reshape(-1))
                else:
                    self._decoder.set_matrix(name, _matrix_bits(tensor))
            if on_progress is not None:
                on_progress(done, len(weights))


def load_core() -> Any:
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


def integer_form() -> IntegerForm:
    """Returns the form in which the chosen instruction set multiplies integers; that for vectors where nothing is compiled."""
    if not available_isas():
        return IntegerForm.VECTORS
    core = load_core()
    return IntegerForm.TILES if core.has_integer_tiles(_chosen_isa(core)) else IntegerForm.VECTORS


def packed_as(core: Any, weight_format: WeightFormat) -> Any:
    """Returns the core's name of a weight format."""
    names = {WeightFormat.FLOAT32: "F32", WeightFormat.BFLOAT16: "BF16", WeightFormat.INT8: "INT8", WeightFormat.INT4: "INT4"}
    return core.WeightFormat[names[weight_format]]


def _chosen_isa(core: Any) -> str:
    """Returns the instruction set that QUIRE_ISA names, or nothing: the fastest."""
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
    return tensor.bits.ndim == 1 or name == "position.weight"


def _matrix_bits(tensor: SourceTensor) -> Any:
    """Returns float32 values or bfloat16 bits, with the strides they have in the file."""
    return tensor.to_float32() if tensor.dtype is SourceDType.FLOAT16 else tensor.bits


def _element(core: Any, kv_format: KVFormat) -> Any:
    return core.Element.F32 if kv_format is KVFormat.FLOAT32 else core.Element.BF16


def _shape_of(core: Any, spec: ModelSpec) -> Any:
    shape = core.ModelShape()
    for field in ("hidden_size", "num_heads", "num_kv_heads", "head_dim", "vocab_size", "max_context", "norm_eps"):
        setattr(shape, field, getattr(spec, field))
    for field in ("is_head_tied", "has_learned_positions", "has_qkv_bias", "has_attention_out_bias"):
        setattr(shape, field, getattr(spec, field))
    shape.attention_scale = spec.attention_scale
    shape.qk_norm = core.QKNorm[spec.qk_norm.name]
    shape.norm = core.NormKind[spec.norm.name]
    shape.norm_placement = core.NormPlacement[spec.norm_placement.name]
    shape.embedding_scale = 1.0 if spec.embedding_scale is None else spec.embedding_scale
    shape.attention_softcap = spec.attention_softcap or 0.0
    shape.logit_softcap = spec.logit_softcap or 0.0
    ropes = list(dict.fromkeys(layer.rope for layer in spec.layers if layer.rope is not None))
    shape.ropes = [_rope_of(core, rope) for rope in ropes]
    shape.layers = [_layer_of(core, layer, ropes) for layer in spec.layers]
    return shape


def _rope_of(core: Any, rope: RopeSpec) -> Any:
    result = core.Rope()
    result.inv_freq = list(rope.inv_freq)
    result.attention_factor = rope.attention_factor
    return result


def _layer_of(core: Any, layer: LayerSpec, ropes: list[RopeSpec]) -> Any:
    result = core.LayerShape()
    result.rope = None if layer.rope is None else ropes.index(layer.rope)
    result.window = layer.window or _UNBOUNDED_WINDOW
    result.ffn = _ffn_of(core, layer.ffn)
    return result


def _ffn_of(core: Any, ffn: DenseFfn) -> Any:
    result = core.FfnShape()
    result.is_gated = ffn.kind is FfnKind.GATED
    result.activation = core.Activation[ffn.activation.name]
    result.size, result.has_bias = ffn.size, ffn.has_bias
    return result
