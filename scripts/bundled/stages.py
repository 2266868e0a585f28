"""The recipe of the bundled model: what it learns first, and what after that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from scripts.bundled.mix import GENERAL, Mix

SEED = 1
VOCAB_SIZE, NUM_TOKENIZER_TEXTS = 3072, 60_000
MAX_CONTEXT = 2048
_SHARED = {
    "--optimizer": "muon",
    "--batch-tokens": "8192",
    "--validation-share": "0.001",
    "--validate-every": "400",
    "--threads": "2",
    "--seed": str(SEED),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One run of `quire train` with options `recipe`, on a corpus of its own; it goes on from the weights of the one before."""

    name: str
    mix: Mix
    corpus_seed: int
    corpus_tokens: int
    recipe: Mapping[str, str]


def _recipe(steps: int, learning_rate: float, warmup_steps: int, final_rate_share: float) -> Mapping[str, str]:
    own = {
        "--learning-rate": str(learning_rate),
        "--warmup-steps": str(warmup_steps),
        "--final-rate-share": str(final_rate_share),
        "--steps": str(steps),
    }
    return MappingProxyType(_SHARED | own)


STAGES = (Stage(name="general", mix=GENERAL, corpus_seed=1, corpus_tokens=46_000_000, recipe=_recipe(4500, 3e-3, 150, 0.02)),)
