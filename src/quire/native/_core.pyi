"""Types of the compiled core; see csrc/bindings*.cpp. Arrays are C-contiguous and aligned unless said otherwise.

Wrong arguments raise TypeError (dtype, number of dimensions, layout), ValueError (sizes, names, indexes) or OverflowError (sizes
whose product is beyond 2^63 - 1), never anything worse; MemoryError and RuntimeError say that the operating system refused memory
or threads. A forked child starts threads of its own at its first call.
"""

from enum import Enum
from typing import overload

import numpy as np
import numpy.typing as npt

from quire.arrays import BitsArray, Float32Array, Float64Array, Int32Array

MaskArray = npt.NDArray[np.uint32]
Int64Array = npt.NDArray[np.int64]
ByteArray = npt.NDArray[np.uint8]

class BusyError(RuntimeError):
    """Another call is running on the decoder."""

class ForkedError(RuntimeError):
    """Another call was running on the decoder when this process was forked, so it never returns here."""

class NotFiniteError(RuntimeError):
    """K/V of a step are NaN or infinite, in a format that cannot hold them."""

class KVFormat(Enum):
    F32 = ...
    BF16 = ...
    INT8 = ...
    INT8_INT4 = ...
    INT4 = ...

class Encoding(Enum):
    F32 = ...
    BF16 = ...
    GROUPS = ...
    ROTATED = ...
    INT8_AMX = ...

class ScaleType(Enum):
    F16 = ...
    BF16 = ...
    TWO_LEVEL = ...

class Offset(Enum):
    CENTER = ...
    ZERO_POINT = ...
    MINIMUM = ...

class GroupFormat:
    """Codes of a few bits in groups along K; see csrc/weight_format.h. ValueError where no kernel has it."""

    def __init__(self, bits: int, group: int = 32, scales: ScaleType = ..., offset: Offset = ...) -> None: ...

class PanelFormat:
    """How a panel of 64 rows of a matrix is stored; `groups` belongs to Encoding.GROUPS."""

    def __init__(self, encoding: Encoding = ..., groups: GroupFormat = ...) -> None: ...

class GroupMatrix:
    """A matrix of group formats alone, one per panel, for the tests of kernels."""

    def __init__(self, isa: str, formats: list[GroupFormat], k: int) -> None: ...
    def set_section(
        self,
        panel: int,
        section: int,
        codes: ByteArray,
        scales: BitsArray,
        minimums: BitsArray,
        zero_points: ByteArray,
        multipliers: npt.NDArray[np.int8],
        minimum_multipliers: ByteArray,
    ) -> None:
        """Writes codes [64, elements] and the parts of the header that the format has; the others are empty."""
    def multiply(self, a: Float32Array, out: Float32Array, prefetch: Prefetch = ...) -> None:
        """Fills out [R, N] with a [R, K] times the matrix transposed."""
    def values(self, out: Float32Array) -> None:
        """Fills out [N, K] with the values that products multiply with."""

class Prefetch(Enum):
    NONE = ...
    NEAR = ...
    FAR = ...
    BOTH = ...
    PACED = ...

class NormKind(Enum):
    RMS = ...
    LAYER = ...

class NormPlacement(Enum):
    PRE = ...
    POST = ...
    SANDWICH = ...

class QKNorm(Enum):
    NONE = ...
    PER_HEAD = ...
    WHOLE = ...

class Activation(Enum):
    SILU = ...
    GELU = ...
    GELU_TANH = ...
    RELU = ...

class Rope:
    inv_freq: list[float]
    attention_factor: float

class FfnShape:
    is_gated: bool
    activation: Activation
    size: int
    has_bias: bool

class LayerShape:
    rope: int | None
    window: int
    ffn: FfnShape

class ModelShape:
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_context: int
    norm: NormKind
    norm_eps: float
    norm_placement: NormPlacement
    qk_norm: QKNorm
    has_qkv_bias: bool
    has_attention_out_bias: bool
    is_head_tied: bool
    has_learned_positions: bool
    attention_scale: float
    embedding_scale: float
    attention_softcap: float
    logit_softcap: float
    ropes: list[Rope]
    layers: list[LayerShape]

class Decoder:
    """Serves one call at a time: a second one raises BusyError, or ForkedError where the first one cannot return."""

    def __init__(self, shape: ModelShape, weights: PanelFormat, formats: dict[str, PanelFormat], isa: str, threads: int) -> None:
        """Matrices that `formats` names have these formats, all others that of `weights`.

        ValueError where matrices that are multiplied together have several encodings.
        """
    @property
    def tensor_shapes(self) -> dict[str, list[int]]:
        """The shape of every tensor that the model needs, by canonical name."""
    def set_matrix(self, name: str, weight: Float32Array | BitsArray, importance: Float32Array | None = None) -> None:
        """Packs a weight [N, K] of any strides; `importance` [K] is what a squared error at a column weighs."""
    def set_input_factors(self, name: str, factors: Float32Array) -> None:
        """Says what inputs [K] are multiplied by before they are rotated, powers of two: before the weights are packed."""
    def dequantized(self, name: str, first_row: int, count: int) -> Float32Array:
        """Returns the values that products multiply with, [count, K]; ValueError for a weight that was never set."""
    def set_groups(
        self, name: str, codes: ByteArray, scales: BitsArray, minimums: BitsArray | None, zero_points: ByteArray | None
    ) -> None:
        """Writes codes [N, K] and what belongs to their groups [N, K / group] as they are, for a format of one level."""
    def set_blocks(self, name: str, kind: int, blocks: ByteArray) -> None:
        """Writes rows of a GGUF kind as they are: bytes [..., bytes of a row], whose leading axes in order are the rows."""
    def set_vector(self, name: str, values: Float32Array) -> None:
        """Copies a bias, a norm or, flat, the table of positions."""
    def packed_sizes(self) -> list[int]:
        """Returns the bytes of every packed matrix, in the order of a file of packed weights."""
    def packed_checksums(self, index: int) -> list[int]:
        """Returns a checksum for each PIECE_BYTES of a matrix."""
    def packed_bytes(self, index: int) -> npt.NDArray[np.uint8]:
        """Returns a read-only view of a matrix, which keeps the decoder alive."""
    def read_packed(self, index: int, file: int, offset: int, checksums: list[int]) -> bool:
        """Fills a matrix from a file descriptor; False if bytes are missing, unreadable, or have other checksums."""
    def allocate_kv(
        self,
        num_blocks: int,
        block_size: int,
        kv_format: KVFormat,
        bytes_per_block: int,
        exact_key_layers: list[int] = ...,
        num_own_tiles: int = 0,
        bytes_per_own_tile: int = 0,
    ) -> None:
        """Reserves K/V memory; ValueError where a block or an own tile takes other than its bytes."""
    def run(
        self,
        token_ids: Int32Array,
        positions: Int32Array,
        query_start: Int32Array,
        context_lens: Int32Array,
        block_tables: Int32Array,
        slots: Int32Array,
        sample_rows: Int32Array,
        logits: Float32Array,
        own_tiles: Int32Array | None = None,
    ) -> None:
        """Runs a step without the GIL and fills logits [S, V].

        ValueError for a weight that was never set, and for an index that is out of range or contradicts another: a slot must be
        where the block table has its position, and is written once. NotFiniteError for K/V that are NaN or infinite, where the
        format is quantized.
        """
    def run_layer(
        self, residual: Float32Array, qkv: Float32Array, out: Float32Array, up: Float32Array, down: Float32Array
    ) -> None:
        """Runs the only layer of a float32 decoder on rows [T, E] in place, as positions 0 to T of one request.

        Fills the others, [T, K], with what the products multiply. ValueError for other decoders, and for too many rows.
        """
    def head(self, rows: Int32Array, logits: Float32Array) -> None:
        """Fills logits [len(rows), V] of rows of the latest step; ValueError if it has no such row."""
    def argmax(self, rows: Int32Array, token_ids: Int32Array, num_not_finite: Int32Array) -> None:
        """Fills token_ids [len(rows)] and num_not_finite [len(rows)] for rows of the latest step; ValueError as `head`."""
    def read_kv(self, layer: int, slots: Int32Array, keys: Float32Array, values: Float32Array) -> None:
        """Fills keys and values [len(slots), K, D]; slots of own tiles follow those of all blocks."""
    def divide_weights(self, count: int, num_bytes: int) -> int:
        """Chooses `count` regions of at most `num_bytes`, evenly spread over the weights; 0 if they have too few panels."""
    def read_seconds(self, region: int, prefetch: Prefetch) -> float:
        """Returns the seconds that products of one row with a region take; ValueError if there is no such region."""
    prefetch: Prefetch
    """How products prefetch weights."""
    def start_counting(self) -> None:
        """Counts from 0 the multiply-adds of all steps until `stop_counting`."""
    def stop_counting(self) -> tuple[int, int, int, int]:
        """Returns those of projections, queries with keys, probabilities with values, and the head; 0 if not counting."""
    def copy_block(self, source: int, target: int) -> None: ...
    def copy_own_tile(self, source: int, target: int) -> None: ...
    def export_block(self, block: int) -> bytes:
        """Returns all layers' pages of a block, as they lie in memory; ValueError where K/V of it are still in own tiles."""
    def import_block(self, block: int, pages: bytes) -> None:
        """Overwrites all layers' pages of a block; ValueError for another number of bytes."""
    @property
    def isa(self) -> str: ...
    @property
    def num_threads(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def kv_bytes(self) -> int: ...

PANEL: int
GROUP: int
PIECE_BYTES: int

def available_isas() -> list[str]: ...
def has_amx(isa: str) -> bool:
    """Returns whether an instruction set multiplies Encoding.INT8_AMX."""

class ReadSpeed:
    """How fast a buffer was read in one pattern.

    Each thread read one place or several side by side (`in_streams`), in its own contiguous part of the buffer (`in_halves`) or
    in slices of 1 MiB as they came.
    """

    @property
    def prefetch(self) -> Prefetch: ...
    @property
    def in_streams(self) -> bool: ...
    @property
    def in_halves(self) -> bool: ...
    @property
    def bytes_per_second(self) -> float: ...

def measure_reads(isa: str, threads: int, num_bytes: int, rounds: int) -> list[ReadSpeed]:
    """Returns how fast one buffer is read in every pattern, best of `rounds`."""

def measure_flops(isa: str, threads: int, panel_format: PanelFormat, rounds: int) -> float:
    """Returns multiplications and additions per second in registers, best of `rounds`."""

def multiply(
    isa: str,
    panel_format: PanelFormat,
    weight: Float32Array,
    a: Float32Array,
    out: Float32Array,
    input_factors: Float32Array | None = None,
    prefetch: Prefetch = ...,
) -> None:
    """Fills out [R, N] with a [R, K] times weight [N, K] transposed, both written as the format wants them."""

def packed_values(
    isa: str,
    panel_format: PanelFormat,
    weight: Float32Array,
    out: Float32Array,
    importance: Float32Array | None = None,
    input_factors: Float32Array | None = None,
) -> None:
    """Fills out [N, K] with the weight as it is after packing; `importance` [K] is what a squared error at a column weighs."""

def activate(isa: str, kind: Activation, x: Float32Array) -> None: ...
def softcap(isa: str, x: Float32Array, cap: float) -> None: ...

class KVElement(Enum):
    F32 = ...
    BF16 = ...
    INT8 = ...
    INT4 = ...

class AttentionCase:
    isa: str
    threads: int
    keys: KVElement
    values: KVElement
    value_group: int
    num_kv_heads: int
    tiles_per_block: int
    window: int
    scale: float
    softcap: float
    def __init__(self) -> None: ...

def attend(
    case: AttentionCase,
    pages: ByteArray,
    own_tiles: ByteArray,
    own_tile_of_row: Int32Array,
    q: BitsArray,
    positions: Int32Array,
    query_start: Int32Array,
    block_tables: Int32Array,
    out: Float32Array,
) -> None:
    """Fills out [T, H * D] with attention of q [T, H, D]; `own_tile_of_row` is empty where there are no own tiles."""

def uniform(seed: int, position: int) -> float:
    """Returns the noise of a seed at a position, both below 2^64; see quire/sample/noise.py."""

class DrawMethod:
    """How a token is drawn; see quire/sample/draw.py. `least` is ln(min_p); ValueError for a number that means nothing."""

    def __init__(self, sharpness: float, top_k: int | None, top_p: float, least: float) -> None: ...

class RowChoice:
    """How the token of a row is chosen: drawn by `noise` in [0, 1), or the one with the largest logit.

    With `num_top`, its score is wanted and the ids of that many most likely tokens.
    """

    def __init__(self, method: DrawMethod | None, noise: float, num_top: int | None) -> None: ...
    def allow(self, words: MaskArray) -> None:
        """Bans each token i whose bit i % 32 of word i / 32 is not set."""
    def change(self, ids: Int64Array, logits: Float64Array) -> None:
        """Replaces the logits of these tokens before tokens are banned."""

class TokenScore:
    """Parts of log-probabilities: the largest logit, the sum of e^(logit - best), and how many ids come before the token's."""

    @property
    def best(self) -> float: ...
    @property
    def exp_sum(self) -> float: ...
    @property
    def num_before(self) -> int: ...
    @property
    def largest_ids(self) -> list[int]: ...

class RowResult:
    """`token_id` is None where logits are not finite, or where every token is banned."""

    @property
    def token_id(self) -> int | None: ...
    @property
    def num_not_finite(self) -> int: ...
    @property
    def score(self) -> TokenScore | None: ...

class BatchSampler:
    """Samples rows without the GIL, on the threads of a decoder, as one of the decoder's calls, or on threads of its own.

    Serves one call at a time, as Decoder does, and raises as it does.
    """

    @overload
    def __init__(self, decoder: Decoder) -> None: ...
    @overload
    def __init__(self, isa: str, threads: int) -> None: ...
    def sample(self, logits: Float32Array, choices: list[RowChoice]) -> list[RowResult]:
        """Chooses a token for each row of logits [S, V]; ValueError for changes that leave no order or no finite maximum."""
    def score(self, logits: Float32Array, token_ids: list[int], num_top: int) -> list[RowResult]:
        """Scores one given token per row of logits [S, V]."""
