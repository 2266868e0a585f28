"""`quire quantize`: writes a quantized checkpoint that vLLM, transformers and Quire read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from quire.cli.options import OptionDecorator, count_of, gathered
from quire.environment import default_threads

if TYPE_CHECKING:
    from quire.models.checkpoint import Checkpoint
    from quire.quantize.layer_pass import Pieces
    from quire.quantize.quantizer import QuantizeReport

_R = TypeVar("_R")
_NONE = "none"
_HEADERS = ("matrix", "weights>", "bits>", "error>", "weighted>")


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeOptions:
    """What is quantized, to what, and what is printed; `calibrate` None means the bundled text."""

    model: str
    output: Path
    bits: str
    calibrate: str | None
    threads: int | None
    is_reported: bool
    as_json: bool


_OPTIONS: tuple[OptionDecorator, ...] = (
    click.argument("model", metavar="MODEL"),
    click.option(
        "-o",
        "--output",
        required=True,
        metavar="DIR",
        type=click.Path(path_type=Path),
        help="A directory that does not exist yet.",
    ),
    click.option(
        "--bits", type=click.Choice(["4", "8"]), default="4", show_default=True, help="Bits of a weight, without scales."
    ),
    click.option(
        "--calibrate",
        metavar="TEXT|none",
        help="A UTF-8 file that tells which inputs matter; `none` rounds to the nearest. [default: a bundled text]",
    ),
    click.option("--threads", type=count_of("threads"), help="Worker threads. [default: the cores this process may use]"),
    click.option(
        "--report", "is_reported", is_flag=True, help="Print every matrix: bits, error, and error weighted by its inputs."
    ),
    click.option("--json", "as_json", is_flag=True, help="Print only a JSON line."),
)


def _quantize_options(command: Callable[..., _R]) -> Callable[..., _R]:
    return gathered(command, _OPTIONS, "options", lambda values: QuantizeOptions(**values))


@click.command()
@_quantize_options
def quantize(options: QuantizeOptions) -> None:
    """Write a checkpoint with 4- or 8-bit weights, which vLLM, transformers and Quire read.

    MODEL is anything Quire runs: a directory, a .gguf file or a Hugging Face id. Its layers are rounded one after the other
    (GPTQ over a text), in groups of 32 inputs with a scale and a zero point; embedding and head stay in 16 bits. Memory is
    that of one layer. A run that was interrupted continues when the same command is given again.

    \b
    Example:
      quire quantize path/to/model -o model-w4
      quire quantize model.gguf -o model-w4 --calibrate my-own-text.txt --report
      quire quantize org/name -o model-w8 --bits 8 --calibrate none
    """
    from quire.cli.bench_view import progress_shown
    from quire.cli.load import find_directory
    from quire.models.checkpoint import load_checkpoint
    from quire.quantize.quantizer import GROUP, Job, quantize_checkpoint

    checkpoint = load_checkpoint(find_directory(options.model))
    pieces = _pieces(options.calibrate, checkpoint)
    job = Job(bits=int(options.bits), group=GROUP, pieces=pieces, threads=options.threads or default_threads())
    with progress_shown() as on_progress:
        report = quantize_checkpoint(checkpoint, job, options.output, on_progress)
    _show(report, options)


def _pieces(calibrate: str | None, checkpoint: Checkpoint) -> Pieces:
    from quire.cli.text_file import read_text_file
    from quire.quantize.calibration import BUNDLED, calibration_pieces
    from quire.text.tokenizer import Tokenizer

    if calibrate == _NONE:
        return ()
    text = read_text_file(BUNDLED if calibrate is None else Path(calibrate))
    return calibration_pieces(text, Tokenizer.from_model(checkpoint.directory), checkpoint.spec.max_context)


def _show(report: QuantizeReport, options: QuantizeOptions) -> None:
    from quire.cli.display import listing, out_console, print_json

    if options.as_json:
        print_json({"directory": str(options.output), **asdict(report)})
        return
    console = out_console()
    if options.is_reported:
        rows = [
            (each.name, f"{each.num_weights:,}", f"{each.bits:.3f}", f"{each.error:.2e}", _number(each.weighted_error))
            for each in report.matrices
        ]
        console.print(listing("squared error, as a share of the squared weights", _HEADERS, rows))
    total = sum(each.num_weights for each in report.matrices)
    console.print(
        f"{options.output}: {report.layer_bits:.3f} bits per weight in {total:,} weights of layers, {report.bits:.3f} in all"
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2e}"
