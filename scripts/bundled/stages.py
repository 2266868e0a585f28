"""The recipe of the bundled model: what it learns first, and what after that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from scripts.bundled.mix import DRILL, GENERAL, SETTLE, Mix

SEED = 1
VOCAB_SIZE, NUM_TOKENIZER_TEXTS = 3072, 60_000
MAX_CONTEXT = 2048
_SHARED = {
    "--final-rate-share": "0.02",
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


def _recipe(**own: object) -> Mapping[str, str]:
    spelled = {f"--{name.replace('_', '-')}": str(value) for name, value in own.items()}
    return MappingProxyType(_SHARED | spelled)


STAGES = (
    Stage(
        name="general",
        mix=GENERAL,
        corpus_seed=1,
        corpus_tokens=46_000_000,
        recipe=_recipe(
            optimizer="muon", steps=4500, batch_tokens=8192, learning_rate=3e-3, warmup_steps=150, precision="bfloat16"
        ),
    ),
    Stage(
        name="drill",
        mix=DRILL,
        corpus_seed=2,
        corpus_tokens=1_100_000,
        recipe=_recipe(optimizer="adamw", steps=240, batch_tokens=4096, learning_rate=1e-3, warmup_steps=15, precision="float32"),
    ),
    Stage(
        name="settle",
        mix=SETTLE,
        corpus_seed=3,
        corpus_tokens=2_800_000,
        recipe=_recipe(optimizer="adamw", steps=600, batch_tokens=4096, learning_rate=5e-4, warmup_steps=15, precision="float32"),
    ),
)
