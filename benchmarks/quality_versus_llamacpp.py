"""What llama.cpp's formats cost beside Quire's, on the same weights and token ids, against Quire's float32.

    python benchmarks/quality_versus_llamacpp.py --python PATH/bin/python

PATH is an environment with llama-cpp-python, gguf and Quire; without --python it is this one. The bundled model is written as
GGUF and read teacher-forced over its held-out chats, with float32 K/V, so that only weights and products differ; llama.cpp's
default of float16 K/V has rows of its own. F32 tells how far two exact computations are apart. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from quire.bench.divergence import Divergence, DivergenceMeter
from quire.bench.harness import Harness, Room
from quire.bench.held_out import held_out_texts
from quire.bench.quality import QualityWork, Text, in_pieces, measure_quality, piece_logits
from quire.environment import default_threads
from quire.executors.protocol import Float32Array
from quire.models import bundled
from quire.models.checkpoint import load_checkpoint
from quire.text.tokenizer import Tokenizer

_FORMATS = ("F32", "BF16", "Q8_0", "Q4_0", "Q4_0-default", "Q4_K_M")
_DEFAULT_KV_FORMATS = ("Q8_0", "Q4_0")
_HEADER = ("engine", "weights", "K/V", "of", "KL mean", "KL 99 %", "KL max", "same top-1", "perplexity")
_BENCHMARKS = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A format of an engine beside the reference, over all tokens and over the answers."""

    engine: str
    weights: str
    kv: str
    tokens: Divergence
    answers: Divergence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="the interpreter that has llama-cpp-python")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--formats", nargs="+", default=list(_FORMATS))
    arguments = parser.parse_args()
    directory = bundled.directory()
    checkpoint = load_checkpoint(directory)
    work = in_pieces(held_out_texts(Tokenizer.from_directory(directory)), (), checkpoint.spec.max_context)
    rows = _ours(work, arguments.threads)
    reference = Harness(
        checkpoint,
        {"dtype": "float32", "kv_format": "float32", "threads": arguments.threads},
        Room(num_requests=1, num_tokens=work.context),
    )
    with TemporaryDirectory(prefix="quire-quality-") as scratch:
        llamacpp = LlamaCpp(arguments.python.absolute(), Path(scratch), work, arguments.threads)
        pairs = [(each, "f32") for each in arguments.formats]
        pairs += [(each, "f16") for each in _DEFAULT_KV_FORMATS if each in arguments.formats]
        for done, (number_format, kv) in enumerate(pairs):
            print(f"llama.cpp {number_format}, K/V {kv}: {done + 1} of {len(pairs)}", file=sys.stderr, flush=True)
            rows.append(_theirs(llamacpp, reference, number_format, kv))
    print(_table(rows))
    print(json.dumps([asdict(row) for row in rows]))


def _ours(work: QualityWork, threads: int) -> list[Row]:
    report = measure_quality(load_checkpoint(bundled.directory()), work, {"threads": threads})
    return [
        Row(engine=f"Quire, {report.executor}", weights=each.weights, kv=each.kv, tokens=each.tokens, answers=each.answers)
        for each in report.formats
        if each.answers is not None
    ]


class LlamaCpp:
    """llama.cpp in a process of its own, on a copy of the bundled model."""

    def __init__(self, python: Path, scratch: Path, work: QualityWork, threads: int) -> None:
        self.work = work
        self._python = python
        self._scratch = scratch
        self._threads = threads
        self._model = Path(shutil.copytree(bundled.directory(), scratch / "model"))
        self._pieces = scratch / "pieces.json"
        self._pieces.write_text(json.dumps([piece.token_ids for piece in work.pieces]))

    def logits(self, number_format: str, kv: str) -> Iterator[tuple[Text, Float32Array]]:
        """Yields every piece with its logits [T, V]."""
        command = [self._python, "-m", "contestants.llamacpp_logits", self._model, number_format, self._pieces, self._scratch]
        subprocess.run([*command, "--kv", kv, "--threads", str(self._threads)], check=True, cwd=_BENCHMARKS)
        for index, piece in enumerate(self.work.pieces):
            yield piece, np.load(self._scratch / f"{index}.npy")


def _theirs(llamacpp: LlamaCpp, reference: Harness, number_format: str, kv: str) -> Row:
    meter = DivergenceMeter()
    for piece, logits in llamacpp.logits(number_format, kv):
        done = 0
        for expected in piece_logits(reference, piece.token_ids):
            rows = slice(done, done + len(expected))
            done = rows.stop
            meter.add(expected, logits[rows], np.array(piece.token_ids[1:][rows]))
    answers = meter.result(llamacpp.work.is_answer)
    return Row(engine="llama.cpp", weights=number_format, kv=kv, tokens=meter.result(), answers=answers)


def _table(rows: Sequence[Row]) -> str:
    lines = [_line(_HEADER), "|" + "---|" * len(_HEADER)]
    for row in rows:
        counted: Mapping[str, Divergence] = {"all tokens": row.tokens, "answers": row.answers}
        for what, found in counted.items():
            kls = (f"{kl:.2e}" for kl in (found.kl_mean, found.kl_p99, found.kl_max))
            lines.append(_line([row.engine, row.weights, row.kv, what, *kls, f"{found.top1:.2%}", f"{found.perplexity:.4f}"]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
