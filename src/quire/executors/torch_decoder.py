"""`Decoder`: the formulas of `reference_math.py` as a torch module, with gradients.

    training      logits, _    = model(input_ids, use_cache=False)              all positions at once, no cache
    prefill       logits, past = model(input_ids)                               the same, and K/V are kept
    decode        logits, past = model(next_ids, past_kvs=past)                 K/V grow by concatenation

The module tree spells the canonical names: `state_dict()` has exactly the keys of `ModelSpec.tensor_shapes()`, in their order,
and a tied head is the token table itself. A layer projects and rotates; what its queries then see is up to the caller's
`Attend`: K/V that grow here, pages in `torch_executor.py`, documents that must not see each other in a trainer.

Parameters may have any floating type. Norms, rotations and softmax compute in float32 at least, then round to the type of
their input, so bfloat16 parameters and autocast work as usual.

Arrays in glossary letters; R is the number of rotated elements of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from hashlib import sha256
from typing import Protocol, Self, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - what every torch program calls it

from quire.errors import EmptyPromptError, PromptTooLongError, RequestError
from quire.executors.checks import check_weights
from quire.executors.reference_math import Scoring, scoring_of
from quire.models.spec import Activation, DenseFfn, FfnKind, LayerSpec, ModelSpec, NormKind, NormPlacement, QKNorm, RopeSpec
from quire.models.weights import SourceDType, SourceTensor, Weights

INIT_STD = 0.02
"""Standard deviation of fresh matrices, as in GPT-2 and Llama."""

PastKVs = tuple[tuple[Tensor, Tensor], ...]
"""K and V of every layer, each [B, K, t, D] after rotation."""

Rotation = tuple[Tensor, Tensor]
"""cos and sin of every position and rotated pair, each [B, 1, T, R/2], or B = 1 for all requests."""


class Attend(Protocol):
    """Mixes values for the queries of one layer: q [B, H, T, D], new k and v [B, K, T, D] -> [B, H, T, D]."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...


class Decoder(nn.Module):
    """A decoder-only transformer. Fresh parameters are torch's defaults: follow with `init_weights` to train from scratch."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        distinct = list(dict.fromkeys(layer.rope for layer in spec.layers if layer.rope is not None))
        self._rope_idx = [None if layer.rope is None else distinct.index(layer.rope) for layer in spec.layers]
        self.embed = nn.Embedding(spec.vocab_size, spec.hidden_size)
        if spec.has_learned_positions:
            self.position = nn.Embedding(spec.max_context, spec.hidden_size)
        self.ropes = nn.ModuleList(_Rope(rope) for rope in distinct)
        self.layers = nn.ModuleList(_Layer(spec, layer) for layer in spec.layers)
        self.final_norm = _Norm(spec.hidden_size, spec)
        if not spec.is_head_tied:
            self.head = nn.Linear(spec.hidden_size, spec.vocab_size, bias=False)

    @classmethod
    def from_weights(cls, spec: ModelSpec, weights: Mapping[str, SourceTensor], dtype: torch.dtype = torch.float32) -> Self:
        """Returns a decoder that holds copies of `weights` in `dtype`; raises ExecutorError if they are another model's."""
        check_weights(spec, weights)
        with torch.device("meta"):  # no memory and no random numbers for values that are replaced at once
            decoder = cls(spec)
        tensors = {name: torch.tensor(weights[name].to_float32()).to(dtype) for name in spec.tensor_shapes()}
        decoder.load_state_dict(tensors, assign=True)
        return decoder

    def to_weights(self) -> Weights:
        """Returns a copy of the parameters, as exact as a checkpoint can be: float64 becomes float32.

        The fingerprint is a digest of all names and values.
        """
        tensors = {name: _source_of(value) for name, value in self.state_dict().items()}
        digest = sha256()
        for name, tensor in tensors.items():
            digest.update(f"{name} {tensor.dtype.value} {tensor.shape}\n".encode())
            digest.update(tensor.bits.tobytes())
        return Weights(tensors, fingerprint=digest.digest())

    @torch.no_grad()
    def init_weights(self, seed: int, std: float = INIT_STD) -> None:
        """Sets every parameter as GPT-2 does; equal seeds give equal values on every device.

        Matrices are normal with deviation `std`, divided by sqrt(2 L) where they write into the residual stream, so that
        its size does not grow with depth. Norms pass their input on and biases are zero.
        """
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0 if name.endswith("norm.weight") else 0.0)
                continue
            writes_residual = name.endswith(("attn.out.weight", "ffn.down.weight"))
            scale = std / (2 * self.spec.num_layers) ** 0.5 if writes_residual else std
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)

    def forward(
        self, input_ids: Tensor, past_kvs: PastKVs | None = None, use_cache: bool = True
    ) -> tuple[Tensor, PastKVs | None]:
        """Returns logits [B, T, V] of `input_ids` [B, T] int64 that follow `past_kvs`, and K/V that include them.

        The past is never changed. Without `use_cache` the second value is None. Raises RequestError for ids that are no
        [B, T] or do not fit the context.
        """
        num_past = past_kvs[0][0].shape[2] if past_kvs is not None else 0
        self._check(input_ids, num_past)
        kvs = _GrowingKVs(self.spec, past_kvs)
        positions = torch.arange(num_past, num_past + input_ids.shape[1], device=input_ids.device)
        logits = self.logits(self.hidden(input_ids, positions[None], kvs.attend))
        return logits, tuple(kvs.grown) if use_cache else None

    def hidden(self, input_ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Returns x [B, T, E] after all layers; `positions` is [B, T], or [1, T] for all requests."""
        x = self.embed(input_ids)
        if self.spec.embedding_scale is not None:
            x = x * self.spec.embedding_scale
        if self.spec.has_learned_positions:
            x = x + self.position(positions)
        rotations = [rope(positions, _at_least_float32(x.dtype)) for rope in self.ropes]
        for index, (layer, rope_idx) in enumerate(zip(self.layers, self._rope_idx, strict=True)):
            x = layer(x, None if rope_idx is None else rotations[rope_idx], partial(attend, index))
        return cast(Tensor, x)

    def logits(self, x: Tensor) -> Tensor:
        """Returns the logits [..., V] of rows x [..., E] that `hidden` returned."""
        table = self.embed.weight if self.spec.is_head_tied else self.head.weight
        logits = F.linear(self.final_norm(x), table)
        if self.spec.logit_softcap is None:
            return logits
        return self.spec.logit_softcap * torch.tanh(logits / self.spec.logit_softcap)

    def _check(self, input_ids: Tensor, num_past: int) -> None:
        if input_ids.ndim != 2:
            raise RequestError("input_ids must be [B, T]", given=tuple(input_ids.shape), next_step="Pass one row a request.")
        if input_ids.shape[1] == 0:
            raise EmptyPromptError("there are no new tokens", next_step="Pass at least one token in each row.")
        num_tokens = num_past + input_ids.shape[1]
        if num_tokens > self.spec.max_context:
            raise PromptTooLongError(
                "past and new tokens exceed the context",
                given=num_tokens,
                limit=self.spec.max_context,
                next_step="Start again with fewer tokens.",
            )


def attention(q: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> Tensor:
    """Returns [B, H, Nq, D]: each of the last Nq positions of a context, mixed from the values it may see.

    q is [B, H, Nq, D]; k and v are [B, K, Nk, D] with Nk >= Nq.
    """
    num_queries, is_grouped = q.shape[2], q.shape[1] != k.shape[1]
    if scoring.window is not None:  # no query sees more than these keys
        num_reached = num_queries + scoring.window - 1
        k, v = k[:, :, -num_reached:], v[:, :, -num_reached:]
    if scoring.softcap is not None:
        return _softcapped_attention(q, k, v, scoring)
    num_keys = k.shape[2]
    is_windowed = scoring.window is not None and scoring.window < num_keys
    if num_queries == num_keys and not is_windowed:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scoring.scale, enable_gqa=is_grouped)
    sees_all = num_queries == 1 and not is_windowed
    mask = None if sees_all else visible(num_queries, num_keys, scoring.window, q.device)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scoring.scale, enable_gqa=is_grouped)


def visible(num_queries: int, num_keys: int, window: int | None, device: torch.device) -> Tensor:
    """Returns the causal mask [Nq, Nk] bool: True where the query at position Nk - Nq + row may see the key of the column."""
    position = torch.arange(num_keys - num_queries, num_keys, device=device)[:, None]
    key = torch.arange(num_keys, device=device)[None, :]
    is_past = key <= position
    return is_past if window is None else is_past & (key > position - window)


class _GrowingKVs:
    """K/V of all layers that grow by concatenation; the past they grew from stays as it is."""

    def __init__(self, spec: ModelSpec, past_kvs: PastKVs | None) -> None:
        self._spec = spec
        self._past_kvs = past_kvs
        self.grown: list[tuple[Tensor, Tensor]] = []

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self._past_kvs is not None:
            past_k, past_v = self._past_kvs[layer]
            k, v = torch.cat([past_k, k], dim=2), torch.cat([past_v, v], dim=2)
        self.grown.append((k, v))
        return attention(q, k, v, scoring_of(self._spec, layer))


class _Layer(nn.Module):
    """Attention and feed-forward around the residual stream; a norm that the family does not place passes its input on."""

    def __init__(self, spec: ModelSpec, layer: LayerSpec) -> None:
        super().__init__()
        has_pre = spec.norm_placement is not NormPlacement.POST
        has_post = spec.norm_placement is not NormPlacement.PRE
        self.attn_norm = _Norm(spec.hidden_size, spec) if has_pre else nn.Identity()
        self.attn = _Attention(spec)
        self.attn_post_norm = _Norm(spec.hidden_size, spec) if has_post else nn.Identity()
        self.ffn_norm = _Norm(spec.hidden_size, spec) if has_pre else nn.Identity()
        self.ffn = _FeedForward(layer.ffn, spec.hidden_size)
        self.ffn_post_norm = _Norm(spec.hidden_size, spec) if has_post else nn.Identity()

    def forward(self, x: Tensor, rotation: Rotation | None, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        x = x + self.attn_post_norm(self.attn(self.attn_norm(x), rotation, attend))
        return cast(Tensor, x + self.ffn_post_norm(self.ffn(self.ffn_norm(x))))


class _Attention(nn.Module):
    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self._head_dim, self._qk_norm = spec.head_dim, spec.qk_norm
        query, kv = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
        self.q = nn.Linear(spec.hidden_size, query, bias=spec.has_qkv_bias)
        self.k = nn.Linear(spec.hidden_size, kv, bias=spec.has_qkv_bias)
        self.v = nn.Linear(spec.hidden_size, kv, bias=spec.has_qkv_bias)
        if spec.qk_norm is not QKNorm.NONE:
            is_whole = spec.qk_norm is QKNorm.WHOLE
            self.q_norm = _Norm(query if is_whole else spec.head_dim, spec, NormKind.RMS)
            self.k_norm = _Norm(kv if is_whole else spec.head_dim, spec, NormKind.RMS)
        self.out = nn.Linear(query, spec.hidden_size, bias=spec.has_attention_out_bias)

    def forward(self, x: Tensor, rotation: Rotation | None, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        q, k, v = self._project(x)
        if rotation is not None:
            q, k = _rotate(q, rotation), _rotate(k, rotation)
        mixed = attend(q, k, v).transpose(1, 2).flatten(2)
        return cast(Tensor, self.out(mixed))

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns q [B, H, T, D], k and v [B, K, T, D]; queries and keys normed where the family does so."""
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self._qk_norm is QKNorm.WHOLE:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (projected.unflatten(-1, (-1, self._head_dim)).transpose(1, 2) for projected in (q, k, v))
        if self._qk_norm is QKNorm.PER_HEAD:
            q, k = self.q_norm(q), self.k_norm(k)
        return q, k, v


class _FeedForward(nn.Module):
    def __init__(self, ffn: DenseFfn, hidden_size: int) -> None:
        super().__init__()
        self._activation, self._is_gated = ffn.activation, ffn.kind is FfnKind.GATED
        if self._is_gated:
            self.gate = nn.Linear(hidden_size, ffn.size, bias=ffn.has_bias)
        self.up = nn.Linear(hidden_size, ffn.size, bias=ffn.has_bias)
        self.down = nn.Linear(ffn.size, hidden_size, bias=ffn.has_bias)

    def forward(self, x: Tensor) -> Tensor:
        up = self.up(x)
        hidden = _activate(self.gate(x), self._activation) * up if self._is_gated else _activate(up, self._activation)
        return cast(Tensor, self.down(hidden))


class _Norm(nn.Module):
    """The norm of `spec`, or of the given kind, over the last axis."""

    def __init__(self, size: int, spec: ModelSpec, kind: NormKind | None = None) -> None:
        super().__init__()
        self._eps = spec.norm_eps
        self.weight = nn.Parameter(torch.ones(size))
        is_centered = (kind or spec.norm) is NormKind.LAYER
        self.bias = nn.Parameter(torch.zeros(size)) if is_centered else None

    def forward(self, x: Tensor) -> Tensor:
        wide = _at_least_float32(x.dtype)
        shape, weight = (x.shape[-1],), self.weight.to(wide)
        if self.bias is None:
            return F.rms_norm(x.to(wide), shape, weight, self._eps).to(x.dtype)
        return F.layer_norm(x.to(wide), shape, weight, self.bias.to(wide), self._eps).to(x.dtype)


class _Rope(nn.Module):
    """The rotation by position. Its frequencies follow the module to a device, but are float32 whatever its type."""

    inv_freq: Tensor

    def __init__(self, rope: RopeSpec) -> None:
        super().__init__()
        self._rope = rope
        self.register_buffer("inv_freq", self._frequencies(torch.device("cpu")), persistent=False)

    def forward(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        angle = (positions.float()[..., None] * self.inv_freq).to(dtype)[:, None]
        return angle.cos() * self._rope.attention_factor, angle.sin() * self._rope.attention_factor

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.inv_freq = self._frequencies(self.inv_freq.device)
        return self

    def _frequencies(self, device: torch.device) -> Tensor:
        return torch.tensor(self._rope.inv_freq, dtype=torch.float32, device=device)


def _softcapped_attention(q: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> Tensor:
    num_groups, cap = q.shape[1] // k.shape[1], cast(float, scoring.softcap)
    k, v = k.repeat_interleave(num_groups, dim=1), v.repeat_interleave(num_groups, dim=1)
    scores = q @ k.transpose(-1, -2) * scoring.scale
    scores = cap * torch.tanh(scores.to(_at_least_float32(q.dtype)) / cap)
    mask = visible(q.shape[2], k.shape[2], scoring.window, q.device)
    return scores.masked_fill(~mask, -torch.inf).softmax(dim=-1).to(v.dtype) @ v


def _rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Returns x [B, H, T, D] with pair (i, i + R/2) of every head turned; elements from R on pass through."""
    cos, sin = rotation
    half = cos.shape[-1]
    first, second, rest = x.to(cos.dtype).tensor_split((half, 2 * half), dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1).to(x.dtype)


def _activate(x: Tensor, activation: Activation) -> Tensor:
    match activation:
        case Activation.RELU:
            return F.relu(x)
        case Activation.SILU:
            return F.silu(x)
        case Activation.GELU:
            return F.gelu(x)
        case Activation.GELU_TANH:
            return F.gelu(x, approximate="tanh")


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _source_of(value: Tensor) -> SourceTensor:
    copy = value.detach().to("cpu", copy=True).contiguous()
    if copy.dtype is torch.bfloat16:
        return SourceTensor(dtype=SourceDType.BFLOAT16, bits=copy.view(torch.int16).numpy().view(np.uint16))
    if copy.dtype is torch.float16:
        return SourceTensor(dtype=SourceDType.FLOAT16, bits=copy.numpy())
    return SourceTensor(dtype=SourceDType.FLOAT32, bits=copy.float().numpy())
