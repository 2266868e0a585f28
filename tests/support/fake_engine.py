"""A model small enough to reason about, for tests of the engine's logic.

Its "K/V" of a token is the token id, and its logits are random numbers seeded by the whole context as read back through the
block table: any block mixed up, overwritten or forgotten gives other tokens.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from quire.config import (
    DEFAULT_KV_MEMORY_BYTES,
    CacheConfig,
    EngineConfig,
    KVCacheMode,
    KVFormat,
    PrefixCache,
    SchedulerConfig,
)
from quire.engine.core import EngineCore
from quire.engine.loading import Origin, build_core
from quire.engine.prompts import ParsedPrompt, Submission
from quire.errors import ExecutorError
from quire.executors.host import HostExecutor
from quire.executors.protocol import Float32Array, Int32Array, StepBatch, kv_layout
from quire.kv.layout import KVLayout
from quire.models.spec import Activation, DenseFfn, FfnKind, FullAttention, LayerSpec, ModelSpec, NormKind, NormPlacement, QKNorm
from quire.request import RequestOutput, SamplingParams
from quire.text.tokenizer import Tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TOKENS = (*LETTERS, "\u0120", "\u00c3", "\u00a9", "<eos>")  # a to z, space, the two bytes of e-acute, end of sequence
E_ACUTE = (27, 28)
EOS = 29
VOCAB_SIZE = len(TOKENS)
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role[0] }} {{ message.content }} {% endfor %}"
    "{% if add_generation_prompt %}a {% endif %}"
)
BLOCK_SIZE = 32
MAX_CONTEXT = 512

FAKE_SPEC = ModelSpec(
    family="fake",
    hidden_size=2,
    num_heads=1,
    num_kv_heads=1,
    head_dim=2,
    vocab_size=VOCAB_SIZE,
    max_context=MAX_CONTEXT,
    layers=(
        LayerSpec(
            attention=FullAttention(),
            ffn=DenseFfn(kind=FfnKind.PLAIN, activation=Activation.SILU, size=2, has_bias=False),
            rope=None,
        ),
    ),
    norm=NormKind.RMS,
    norm_eps=1e-6,
    norm_placement=NormPlacement.PRE,
    qk_norm=QKNorm.NONE,
    has_qkv_bias=False,
    has_attention_out_bias=False,
    is_head_tied=True,
    has_learned_positions=False,
    attention_scale=1.0,
)


class FakeExecutor(HostExecutor):
    """Token `poison` makes `run` raise, token `nan` makes the logits behind it NaN; `num_runs_left` makes all runs fail."""

    def __init__(self, num_blocks: int = 64, *, poison: int | None = None, nan: int | None = None) -> None:
        self.name = "fake"
        self.numerics = "fake"
        self.spec: ModelSpec = FAKE_SPEC
        self.layout: KVLayout = kv_layout(FAKE_SPEC, BLOCK_SIZE, KVFormat.FLOAT32)
        self.num_blocks = num_blocks
        self.tokens = np.full(num_blocks * BLOCK_SIZE, -1, dtype=np.int32)
        self.num_steps = 0
        self.num_tokens = 0
        self.max_rows = 0
        self._poison = poison
        self._nan = nan
        self._latest: StepBatch | None = None

    def run(self, batch: StepBatch) -> Float32Array:
        self.num_steps += 1
        self.num_tokens += len(batch.token_ids)
        self.max_rows = max(self.max_rows, len(batch.sample_rows))
        self.tokens[batch.slot_mapping] = batch.token_ids
        if self._poison is not None and self._poison in batch.token_ids:
            raise ExecutorError("the fake choked", next_step="Send other tokens.")
        self._latest = batch
        return self.head(batch.sample_rows)

    def head(self, rows: Int32Array) -> Float32Array:
        if self._latest is None:
            raise ExecutorError("the fake has run no step", next_step="Run one.")
        logits = [self._row(self._latest, int(row)) for row in rows]
        return np.stack(logits) if logits else np.empty((0, VOCAB_SIZE), dtype=np.float32)

    def read_kv(self, layer: int, slots: Int32Array) -> tuple[Float32Array, Float32Array]:
        keys = np.repeat(self.tokens[slots].astype(np.float32)[:, None, None], 2, axis=2)
        return keys, -keys - layer

    def copy_block(self, source: int, target: int) -> None:
        blocks = self.tokens.reshape(-1, BLOCK_SIZE)
        blocks[target] = blocks[source]

    def export_block(self, block: int) -> bytes:
        return self.tokens.reshape(-1, BLOCK_SIZE)[block].tobytes()

    def import_block(self, block: int, data: bytes) -> None:
        self.tokens.reshape(-1, BLOCK_SIZE)[block] = np.frombuffer(data, dtype=np.int32)

    def _row(self, batch: StepBatch, row: int) -> Float32Array:
        owner = int(np.searchsorted(batch.query_start, row, side="right")) - 1
        positions = np.arange(int(batch.positions[row]) + 1)
        slots = batch.block_tables[owner][positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE
        context = self.tokens[slots]
        if self._nan is not None and self._nan in context:
            return np.full(VOCAB_SIZE, np.nan, dtype=np.float32)
        logits = np.random.default_rng(zlib.crc32(context.tobytes())).standard_normal(VOCAB_SIZE)
        logits[[*E_ACUTE, EOS]] -= 1.0
        return (3 * logits).astype(np.float32)


def write_tokenizer(directory: Path) -> None:
    """Writes a tokenizer.json whose tokens are `TOKENS`: letters, space, two halves of a character, end of sequence."""
    backend = tokenizers.Tokenizer(models.BPE(vocab={token: idx for idx, token in enumerate(TOKENS)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<eos>"])
    backend.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>", "chat_template": CHAT_TEMPLATE}))


def make_core(
    executor: FakeExecutor,
    tokenizer: Tokenizer,
    *,
    max_num_batched_tokens: int = 64,
    max_num_seqs: int = 8,
    prefix_cache: PrefixCache = PrefixCache.ON,
    mode: KVCacheMode = KVCacheMode.PAGED,
    itl_target_s: float | None = None,
) -> EngineCore:
    """Returns a core over all blocks of the executor; its clock counts forward passes, a second each."""
    config = EngineConfig(
        cache=CacheConfig(mode=mode, prefix_cache=prefix_cache, format=KVFormat.FLOAT32, memory_bytes=DEFAULT_KV_MEMORY_BYTES),
        scheduler=SchedulerConfig(
            max_num_batched_tokens=max_num_batched_tokens, max_num_seqs=max_num_seqs, itl_target_s=itl_target_s
        ),
        max_context=min(MAX_CONTEXT, executor.num_blocks * BLOCK_SIZE),
    )
    origin = Origin(weights_fingerprint=b"fake", model_context=MAX_CONTEXT)
    return build_core(executor, tokenizer, config, origin, clock=lambda: float(executor.num_steps))


def submission(request_id: str, prompt: tuple[int, ...], num_context: int = 0, **params: object) -> Submission:
    """Returns a greedy submission unless `params` say otherwise."""
    sampling = SamplingParams(**({"temperature": 0, "max_tokens": 8, "ignore_eos": True} | params))  # type: ignore[arg-type]
    parsed = ParsedPrompt(token_ids=prompt, num_context_tokens=num_context)
    return Submission(request_id=request_id, prompt=parsed, sampling=sampling)


def run_all(core: EngineCore, *submissions: Submission) -> dict[str, RequestOutput]:
    """Submits everything, steps until idle, and returns the final output of each; more than one for an id is an error."""
    outputs: dict[str, RequestOutput] = {}
    for each in submissions:
        core.submit(each)
    while core.has_work:
        for event in core.step():
            if isinstance(event, RequestOutput):
                if event.request_id in outputs:
                    raise ValueError(f"{event.request_id} has two final outputs")
                outputs[event.request_id] = event
    return outputs


def letters_of(token_ids: tuple[int, ...]) -> str:
    """Returns the text of tokens that are letters or spaces."""
    return "".join(LETTERS[token_id] if token_id < len(LETTERS) else " " for token_id in token_ids)


def letters_only() -> dict[str, object]:
    """Returns sampling parameters under which only letters and spaces are drawn."""
    return {"logit_bias": dict.fromkeys((*E_ACUTE, EOS), -100.0)}
