"""Makes the bundled model from nothing: corpus, tokenizer, training, exam, model card.

    python -m scripts.bundled.make --work work

Takes about an hour and a half on two cores with AMX; needs the torch extra. Every part that is already in the work directory is
kept, and training continues where it was interrupted, so the same command goes on after anything. Every draw is seeded.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from quire.models import bundled
from quire.models.checkpoint import load_checkpoint
from quire.train.card import Material, ModelFacts, render_card
from quire.train.curve import read_curve
from quire.train.tokenizer import save_tokenizer, train_tokenizer
from scripts.bundled.corpus import CORPUS_VERSION, tokenizer_texts
from scripts.bundled.sections import LIMITS, SUMMARY, measured

SEED = 1
NUM_TOKENS = 46_000_000
VOCAB_SIZE, NUM_TOKENIZER_TEXTS = 3072, 60_000
MAX_CONTEXT = 2048
RECIPE = {
    "--optimizer": "muon",
    "--learning-rate": "3e-3",
    "--warmup-steps": "150",
    "--final-rate-share": "0.02",
    "--steps": "4500",
    "--batch-tokens": "8192",
    "--validation-share": "0.001",
    "--validate-every": "400",
    "--threads": "2",
    "--seed": str(SEED),
}
ALLOCATOR = ":".join(
    f"glibc.malloc.{setting}"
    for setting in ("hugetlb=1", "mmap_threshold=17179869184", "trim_threshold=17179869184", "top_pad=268435456")
)
"""Huge pages, and freed blocks that are kept: otherwise every step clears the same gigabyte again, which takes a fifth of it."""

KEPT_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "curve.png",
)


def main() -> None:
    """Makes every part that is missing, examines the model and puts it where the package finds it."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bundled.make", description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="directory for the corpus, the run and its saved states")
    parser.add_argument("--out", type=Path, default=bundled.directory(), help="directory of the finished model")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    corpus, tokenizer, model = (options.work / name for name in ("corpus.jsonl", "tokenizer", "model"))
    if not corpus.exists():
        _write_corpus(corpus)
    if not tokenizer.exists():
        trained = train_tokenizer(tokenizer_texts(SEED, NUM_TOKENIZER_TEXTS), VOCAB_SIZE)
        save_tokenizer(trained, tokenizer, MAX_CONTEXT)
    if not (model / "config.json").exists():
        _train(corpus, tokenizer, model)
    rows = _examine(model)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in KEPT_FILES:
        shutil.copyfile(model / name, options.out / name)
    (options.out / "README.md").write_text(_card(model, rows), encoding="utf-8")


def _write_corpus(path: Path) -> None:
    """Writes the corpus under another name first: an interrupted one must not pass for whole."""
    unfinished = path.with_suffix(".part")
    _run("-m", "scripts.bundled.corpus", unfinished, "--tokens", NUM_TOKENS, "--seed", SEED)
    unfinished.replace(path)


def _train(corpus: Path, tokenizer: Path, model: Path) -> None:
    quire = ("-c", "from quire.cli.main import main; main()", "train", "-o", model)
    if (model / "training" / "state.safetensors").exists():
        _run(*quire, "--resume")
        return
    recipe = (word for option in RECIPE.items() for word in option)
    _run(*quire, corpus, "--tokenizer", tokenizer, "--compile", *recipe)


def _examine(model: Path) -> list[dict[str, object]]:
    """Returns the rows of the exam's table; a missed bar is told in the card, not hidden."""
    result = subprocess.run(
        [sys.executable, "-m", "scripts.bundled.exam", "-m", str(model), "--json"], stdout=subprocess.PIPE, check=False
    )
    rows: list[dict[str, object]] = json.loads(result.stdout)
    return rows


def _card(model: Path, rows: Sequence[dict[str, object]]) -> str:
    training = model / "training"
    recipe = json.loads((training / "recipe.json").read_text(encoding="utf-8"))
    about = ModelFacts(
        name="The small bundled model of Quire",
        summary=SUMMARY,
        spec=load_checkpoint(model).spec,
        dtype="bfloat16",
        material=Material.CONVERSATIONS,
        rows=read_curve(training / "curve.csv"),
        recipe=recipe,
        corpus={"generator": f"scripts/bundled, version {CORPUS_VERSION}", "tokens written": f"{NUM_TOKENS:,}", "seed": SEED},
        sections={"Measured": measured(rows), "Limits": LIMITS},
        curve_image="curve.png",
    )
    return render_card(about)


def _run(*words: object) -> None:
    """Runs Python with these arguments, with an allocator that keeps what it has where it is glibc's."""
    environment = {"GLIBC_TUNABLES": ALLOCATOR} | os.environ
    subprocess.run([sys.executable, *map(str, words)], check=True, env=environment)


if __name__ == "__main__":
    main()
