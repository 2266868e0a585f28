"""Why a request had to compute what it computed, and where the bytes are: promise 4, the explainable cache."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from quire.kv.layout import KVLayout

DEFAULT_MAX_EXPLANATIONS = 4096
DEFAULT_MAX_EVICTED_KEYS = 16_384


class MissReason(Enum):
    """Why a match ended where it did."""

    COLD = "cold"  # nothing was ever known after this prefix
    DIVERGED = "diverged"  # blocks with this prefix are cached, but they continue with other tokens
    EVICTED = "evicted"  # this very block was cached and its memory has been given away
    PARTIAL = "partial"  # nothing more could match: the rest is less than a block, or only the last token
    DISABLED = "disabled"  # the prefix cache is off
    BYPASSED = "bypassed"  # logits of all prompt tokens from here on were asked for, so they must be computed


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheExplanation:
    """What the prefix cache did for one request when it was first admitted.

    Tokens [0, num_reused_tokens) came from the cache. `reason` says why token `num_reused_tokens` did not.
    `diverged_at` is the position of the first token that differs from the most similar cached continuation.
    """

    request_id: str
    num_tokens: int
    num_reused_tokens: int
    reason: MissReason
    diverged_at: int | None = None

    def __str__(self) -> str:
        where = f" at token {self.diverged_at}" if self.diverged_at is not None else ""
        return f"{self.request_id}: reused {self.num_reused_tokens} of {self.num_tokens} tokens, then {self.reason.value}{where}"


class EvictedKeys:
    """The last `max_keys` keys whose blocks were evicted; 32 bytes each, so entries bound bytes."""

    __slots__ = ("_keys", "_max_keys")

    def __init__(self, max_keys: int = DEFAULT_MAX_EVICTED_KEYS) -> None:
        self._keys: dict[bytes, None] = {}
        self._max_keys = max_keys

    def __contains__(self, key: bytes) -> bool:
        return key in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def remember(self, key: bytes) -> None:
        """Notes an eviction, forgetting the oldest one when full."""
        self._keys.pop(key, None)
        self._keys[key] = None
        if len(self._keys) > self._max_keys:
            del self._keys[next(iter(self._keys))]

    def forget(self, key: bytes) -> None:
        """Drops a key that is cached again."""
        self._keys.pop(key, None)


class Ledger:
    """The explanations of the last `max_explanations` requests."""

    __slots__ = ("_explanations", "_max_explanations")

    def __init__(self, max_explanations: int = DEFAULT_MAX_EXPLANATIONS) -> None:
        self._explanations: dict[str, CacheExplanation] = {}
        self._max_explanations = max_explanations

    def __len__(self) -> int:
        return len(self._explanations)

    def record(self, explanation: CacheExplanation) -> None:
        """Keeps an explanation, replacing an older one of the same request id."""
        self._explanations.pop(explanation.request_id, None)
        self._explanations[explanation.request_id] = explanation
        if len(self._explanations) > self._max_explanations:
            del self._explanations[next(iter(self._explanations))]

    def forget(self, request_id: str) -> None:
        """Drops an explanation that has become untrue."""
        self._explanations.pop(request_id, None)

    def explain(self, request_id: str) -> CacheExplanation | None:
        """Returns what is known about a request, or None when it was never admitted or is long gone."""
        return self._explanations.get(request_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class KVUsage:
    """Where the pool's blocks are: held by a request, free but findable, or free and empty. The three make the total."""

    num_used_blocks: int
    num_cached_blocks: int
    num_empty_blocks: int
    bytes_per_block: int

    @classmethod
    def of(cls, layout: KVLayout, *, num_blocks: int, num_free: int, num_cached: int) -> KVUsage:
        """Returns the usage of a pool from its counts; `num_cached` of its `num_free` blocks are findable."""
        return cls(
            num_used_blocks=num_blocks - num_free,
            num_cached_blocks=num_cached,
            num_empty_blocks=num_free - num_cached,
            bytes_per_block=layout.bytes_per_block,
        )

    @property
    def used_bytes(self) -> int:
        return self.num_used_blocks * self.bytes_per_block

    @property
    def cached_bytes(self) -> int:
        return self.num_cached_blocks * self.bytes_per_block

    @property
    def empty_bytes(self) -> int:
        return self.num_empty_blocks * self.bytes_per_block
