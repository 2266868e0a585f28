"""Attention in a packed batch: every document attends to itself only.

Replaces the cache in `Decoder.hidden`. The tokens of all documents form one row; `Grid` says how to arrange them side by side.
Padding comes last, so plain causal attention suffices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from quire.executors.reference_math import scoring_of
from quire.executors.torch_decoder import attention
from quire.models.spec import ModelSpec
from quire.train.packing import Grid


class DocumentAttention:
    """The `Attend` of one packed batch."""

    def __init__(self, spec: ModelSpec, grid: Grid, device: torch.device) -> None:
        self._spec, self._groups = spec, grid.groups
        self._index = torch.from_numpy(grid.index).to(device)
        self._place = torch.from_numpy(grid.place).to(device)
        is_filling = torch.ones(len(grid.index), dtype=torch.bool, device=device)
        self._filling = is_filling.index_fill(0, self._place, 0).nonzero()[:, 0]

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Mixes values: q [1, H, N, D], k and v [1, K, N, D] -> [1, H, N, D]."""
        scoring = scoring_of(self._spec, layer)
        spread = [_spread(x[0].transpose(0, 1), self._index, self._place) for x in (q, k, v)]
        sizes = [num_documents * length for num_documents, length in self._groups]
        mixed = []
        for group, *places in zip(self._groups, *(torch.split(x, sizes) for x in spread), strict=True):
            q, k, v = (x.unflatten(0, group).transpose(1, 2) for x in places)
            mixed.append(attention(q, k, v, scoring).transpose(1, 2).flatten(0, 1))
        return _collect(torch.cat(mixed), self._index, self._place, self._filling).transpose(0, 1)[None]


class _Spread(torch.autograd.Function):
    """Tokens [N, ...] to their places [P, ...]. Padding has no gradient, so the backward pass is a gather too."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, index: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (place,) = ctx.saved_tensors
        return grads[0].index_select(0, place), None, None


class _Collected(torch.autograd.Function):
    """Places [P, ...] back to tokens [N, ...]; what was computed for padding is dropped."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, index: Tensor, place: Tensor, filling: Tensor) -> Tensor:
        ctx.save_for_backward(index, filling)
        return x.index_select(0, place)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        index, filling = ctx.saved_tensors
        return grads[0].index_select(0, index).index_fill_(0, filling, 0), None, None, None


_spread = cast(Callable[[Tensor, Tensor, Tensor], Tensor], _Spread.apply)
_collect = cast(Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], _Collected.apply)
