"""What llama.cpp's formats cost beside Quire's, on the same weights and token ids, against Quire's float32.

    python benchmarks/quality_versus_llamacpp.py --python PATH/bin/python
    python benchmarks/quality_versus_llamacpp.py -m model.gguf --text book.txt --context 512

PATH is an environment with llama-cpp-python, gguf and Quire; without --python it is this one. The bundled model is read over its
held-out chats, any other over prose or a text. A directory's weights are written as GGUF, a GGUF file's are made float32 by
llama.cpp, and llama.cpp makes its formats of that. K/V are float32, so that only weights and products differ; llama.cpp's
default of float16 K/V has rows of its own. F32 tells how far two exact computations are apart. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from quire.bench.divergence import Divergence, DivergenceMeter
from quire.bench.harness import Harness, Room, WeightBits
from quire.bench.held_out import PROSE, held_out_texts, plain_text
from quire.bench.quality import Compared, QualityWork, Text, in_pieces, measure_quality, piece_logits
from quire.environment import default_threads
from quire.executors.protocol import Float32Array
from quire.models import bundled
from quire.models.checkpoint import Checkpoint, load_checkpoint
from quire.text.tokenizer import Tokenizer

_FORMATS = ("F32", "BF16", "Q8_0", "Q4_0", "Q4_0-default", "Q4_K_M")
_DEFAULT_KV_FORMATS = ("Q8_0", "Q4_0")
_HEADER = ("engine", "weights", "bits", "in layers", "K/V", "of", "KL mean", "KL 99 %", "KL max", "same top-1", "perplexity")
_MAX_CONTEXT = 2048
_BENCHMARKS = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A format of an engine beside the reference, over all tokens and, where some are marked, over the answers."""

    engine: str
    weights: str
    kv: str
    bits: WeightBits
    tokens: Divergence
    answers: Divergence | None


def main() -> None:
    arguments = _arguments()
    checkpoint = load_checkpoint(bundled.directory() if arguments.model is None else arguments.model)
    work = _work(checkpoint, arguments)
    rows = _ours(checkpoint, work, arguments.threads)
    room = Room(num_requests=1, num_tokens=work.context)
    reference = Harness(checkpoint, {"dtype": "float32", "kv_format": "float32", "threads": arguments.threads}, room)
    with TemporaryDirectory(prefix="quire-quality-") as scratch:
        llamacpp = LlamaCpp(arguments.python.absolute(), Path(scratch), checkpoint, work, arguments.threads)
        pairs = [(each, "f32") for each in arguments.formats]
        pairs += [(each, "f16") for each in _DEFAULT_KV_FORMATS if each in arguments.formats]
        for done, (number_format, kv) in enumerate(pairs):
            print(f"llama.cpp {number_format}, K/V {kv}: {done + 1} of {len(pairs)}", file=sys.stderr, flush=True)
            rows.append(_theirs(llamacpp, reference, number_format, kv))
    print(_table(rows))
    print(json.dumps([asdict(row) for row in rows]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", type=Path, help="a model directory or a .gguf file; the bundled model without it")
    parser.add_argument("--text", type=Path, default=PROSE, help="a UTF-8 file, for models other than the bundled one")
    parser.add_argument("--context", type=int, default=_MAX_CONTEXT, help="tokens per piece of the text, at most the model's")
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="the interpreter that has llama-cpp-python")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--formats", nargs="+", default=list(_FORMATS))
    return parser.parse_args()


def _work(checkpoint: Checkpoint, arguments: argparse.Namespace) -> QualityWork:
    tokenizer = Tokenizer.from_model(checkpoint.directory)
    context = min(arguments.context, checkpoint.spec.max_context)
    if arguments.model is None:
        return in_pieces(held_out_texts(tokenizer), (), context)
    text = plain_text(arguments.text.read_text(encoding="utf-8"), tokenizer)
    return in_pieces([text], tokenizer.encode(""), context)


def _ours(checkpoint: Checkpoint, work: QualityWork, threads: int) -> list[Row]:
    report = measure_quality(Compared(checkpoint, checkpoint), work, {"threads": threads})
    name = f"Quire, {report.executor}"
    return [
        Row(engine=name, weights=each.weights, kv=each.kv, bits=each.bits, tokens=each.tokens, answers=each.answers)
        for each in report.formats
    ]


class LlamaCpp:
    """llama.cpp in a process of its own, beside links to the model's files."""

    def __init__(self, python: Path, scratch: Path, checkpoint: Checkpoint, work: QualityWork, threads: int) -> None:
        self.work = work
        self._python = python
        self._scratch = scratch
        self._threads = threads
        self._model = _linked(checkpoint.directory.absolute(), scratch)
        self._pieces = scratch / "pieces.json"
        self._pieces.write_text(json.dumps([piece.token_ids for piece in work.pieces]))

    def logits(self, number_format: str, kv: str) -> Iterator[tuple[Text, Float32Array]]:
        """Yields every piece with its logits [T, V]."""
        command = [self._python, "-m", "contestants.llamacpp_logits", self._model, number_format, self._pieces, self._scratch]
        subprocess.run([*command, "--kv", kv, "--threads", str(self._threads)], check=True, cwd=_BENCHMARKS)
        for index, piece in enumerate(self.work.pieces):
            yield piece, np.load(self._scratch / f"{index}.npy", mmap_mode="r")

    def bits(self) -> WeightBits:
        """Returns the bits per weight of the file that the latest logits came from."""
        return WeightBits(**json.loads((self._scratch / "bits.json").read_text()))


def _linked(model: Path, scratch: Path) -> Path:
    """Returns the model's path in a directory of its own, where files can be written beside it."""
    own = scratch / "model"
    own.mkdir()
    for path in [model] if model.is_file() else model.iterdir():
        (own / path.name).symlink_to(path)
    return own / model.name if model.is_file() else own


def _theirs(llamacpp: LlamaCpp, reference: Harness, number_format: str, kv: str) -> Row:
    meter = DivergenceMeter()
    for piece, logits in llamacpp.logits(number_format, kv):
        done = 0
        for expected in piece_logits(reference, piece.token_ids):
            rows = slice(done, done + len(expected))
            done = rows.stop
            meter.add(expected, logits[rows], np.array(piece.token_ids[1:][rows]))
    is_answer = llamacpp.work.is_answer
    answers = meter.result(is_answer) if is_answer.any() else None
    return Row(engine="llama.cpp", weights=number_format, kv=kv, bits=llamacpp.bits(), tokens=meter.result(), answers=answers)


def _table(rows: Sequence[Row]) -> str:
    lines = [_line(_HEADER), "|" + "---|" * len(_HEADER)]
    for row in rows:
        counted: Mapping[str, Divergence | None] = {"all tokens": row.tokens, "answers": row.answers}
        for what, found in counted.items():
            if found is not None:
                kls = (f"{kl:.2e}" for kl in (found.kl_mean, found.kl_p99, found.kl_max))
                bits = (f"{each:.2f}" for each in (row.bits.everywhere, row.bits.layers))
                lines.append(
                    _line([row.engine, row.weights, *bits, row.kv, what, *kls, f"{found.top1:.2%}", f"{found.perplexity:.4f}"])
                )
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
