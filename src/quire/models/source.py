"""Where a canonical tensor comes from: the contract between families (which know names) and the loader (which knows files)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSource:
    """One tensor as the checkpoint stores it, and how to convert it into ours, in this order: transpose, slice, add.

    `name` lacks the family's optional prefix: the loader tries `prefix + name` for every prefix of the family, in order.
    `rows` is a half-open slice of the first dimension *after* transposing: a part of a fused qkv or gate/up matrix.
    `is_transposed` says that the file stores [in, out] instead of [out, in] (GPT-2).
    `offset` is added in float32 (Gemma stores a norm weight w and means 1 + w).
    """

    name: str
    rows: tuple[int, int] | None = None
    is_transposed: bool = False
    offset: float = 0.0
