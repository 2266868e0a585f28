"""What an answer tells in its headers about how its request was understood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quire.server.generation import Generation

IGNORED, MAX_TOKENS, SEED = "x-quire-ignored", "x-quire-max-tokens", "x-quire-seed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An answer that needs no engine: its body, and the names of fields that had no effect."""

    body: Mapping[str, Any]
    ignored: str

    @property
    def headers(self) -> dict[str, str]:
        return {IGNORED: self.ignored} if self.ignored else {}


def headers_of(generation: Generation, ignored: str) -> dict[str, str]:
    """Returns the fields that had no effect, the length of the answer where less fits than was asked for, and the seed."""
    headers = {} if not ignored else {IGNORED: ignored}
    length = generation.max_tokens
    if length.is_capped:
        headers[MAX_TOKENS] = f"{length.kept}; requested={length.requested}"
    if generation.seed is not None:
        headers[SEED] = str(generation.seed)
    return headers
