"""Makes the bundled model from nothing: tokenizer, corpora, training, exam, model card.

    python -m scripts.bundled.make --work work

Takes about two hours on two cores with AMX; needs the torch extra. Every part that is already in the work directory is
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
from quire.train.tokenizer import save_tokenizer, train_tokenizer
from scripts.bundled.card import card, curve_name
from scripts.bundled.corpus import tokenizer_texts
from scripts.bundled.stages import MAX_CONTEXT, NUM_TOKENIZER_TEXTS, SEED, STAGES, VOCAB_SIZE, Stage

KEPT_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
ALLOCATOR = ":".join(
    f"glibc.malloc.{setting}"
    for setting in ("hugetlb=1", "mmap_threshold=17179869184", "trim_threshold=17179869184", "top_pad=268435456")
)
"""Huge pages, and freed blocks that are kept: otherwise every step clears the same gigabyte again, which takes a fifth of it."""


def main() -> None:
    """Makes every part that is missing, examines the model and puts it where the package finds it."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bundled.make", description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="directory for the corpora, the runs and their saved states")
    parser.add_argument("--out", type=Path, default=bundled.directory(), help="directory of the finished model")
    options = parser.parse_args()
    tokenizer = options.work / "tokenizer"
    if not tokenizer.exists():
        trained = train_tokenizer(tokenizer_texts(SEED, NUM_TOKENIZER_TEXTS), VOCAB_SIZE)
        save_tokenizer(trained, tokenizer, MAX_CONTEXT)
    start: tuple[object, ...] = ("--tokenizer", tokenizer)
    for stage in STAGES:
        start = ("--model", _trained(stage, options.work / stage.name, start))
    _publish(options.work, options.out)


def _trained(stage: Stage, directory: Path, start: tuple[object, ...]) -> Path:
    """Returns the model directory of a stage, trained if it is not there yet; a run that was interrupted goes on."""
    corpus, model = directory / "corpus.jsonl", directory / "model"
    if (model / "config.json").exists():
        return model
    if not corpus.exists():
        _write_corpus(stage, corpus)
    train = ("-c", "from quire.cli.main import main; main()", "train", "-o", model)
    if (model / "training" / "state.safetensors").exists():
        _run(*train, "--resume")
    else:
        _run(*train, corpus, *start, "--compile", *(word for option in stage.recipe.items() for word in option))
    return model


def _write_corpus(stage: Stage, path: Path) -> None:
    """Writes the corpus under another name first: an interrupted one must not pass for whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    options = ("--tokens", stage.corpus_tokens, "--mix", stage.mix.name, "--seed", stage.corpus_seed)
    _run("-m", "scripts.bundled.corpus", unfinished, *options)
    unfinished.replace(path)


def _publish(work: Path, out: Path) -> None:
    """Examines the last stage's model and writes it with the curves of all stages and its card."""
    model = work / STAGES[-1].name / "model"
    rows = _examine(model)
    out.mkdir(parents=True, exist_ok=True)
    for name in KEPT_FILES:
        shutil.copyfile(model / name, out / name)
    for stage in STAGES:
        shutil.copyfile(work / stage.name / "model" / "curve.png", out / curve_name(stage))
    (out / "README.md").write_text(card(work, rows), encoding="utf-8")


def _examine(model: Path) -> Sequence[dict[str, object]]:
    """Returns the rows of the exam's table; a missed bar is told in the card, not hidden."""
    result = subprocess.run(
        [sys.executable, "-m", "scripts.bundled.exam", "-m", str(model), "--json"], stdout=subprocess.PIPE, check=False
    )
    rows: list[dict[str, object]] = json.loads(result.stdout)
    return rows


def _run(*words: object) -> None:
    """Runs Python with these arguments, with an allocator that keeps what it has where it is glibc's."""
    environment = {"GLIBC_TUNABLES": ALLOCATOR} | os.environ
    subprocess.run([sys.executable, *map(str, words)], check=True, env=environment)


if __name__ == "__main__":
    main()
