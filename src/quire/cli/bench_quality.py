"""`quire bench quality`: the quality cost of every number format, measured on a text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from quire.cli.options import OptionDecorator, count_of, gathered
from quire.cli.text_file import read_text_file
from quire.errors import ConfigError
from quire.values import shown

if TYPE_CHECKING:
    from quire.bench.divergence import Divergence
    from quire.bench.kv_quality import KVWork
    from quire.bench.quality import FormatQuality, QualityReport, QualityWork, Text
    from quire.engine.options import EngineOptions

_R = TypeVar("_R")
_MAX_CONTEXT = 2048
_MAX_KL = 0.005
_HEADERS = (
    "of",
    "tokens>",
    "weights",
    "bits>",
    "in layers>",
    "K/V",
    "KL mean>",
    "KL 99 %>",
    "KL max>",
    "same top-1>",
    "perplexity>",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityOptions:
    """What is compared, and on which text; `text` None means the one that goes with the model."""

    model: str | None
    against: str | None
    text: Path | None
    config: Path | None
    context: int | None
    threads: int | None
    max_kl: float
    as_json: bool


def _parse_max_kl(_context: click.Context, _option: click.Parameter, text: str) -> float:
    """Returns a loss; raises click.BadParameter for what is none: NaN, infinity, a negative number."""
    try:
        nats = float(text)
    except ValueError:
        nats = math.nan
    if not 0 <= nats < math.inf:
        raise click.BadParameter(f"{shown(text)} is not a loss; write nats per token, 0 or more, such as {_MAX_KL}.")
    return nats


_OPTIONS: tuple[OptionDecorator, ...] = (
    click.option(
        "-m", "--model", metavar="MODEL", help="A model directory, .gguf file or Hugging Face id. [default: the bundled model]"
    ),
    click.option(
        "--against",
        metavar="MODEL",
        help="The model whose float32 is the reference, such as the one that was quantized. [default: the model itself]",
    ),
    click.option(
        "--text",
        type=click.Path(path_type=Path),
        help="A UTF-8 file. [default: for the bundled model chats it never saw, else prose]",
    ),
    click.option("--config", type=click.Path(path_type=Path), help="Not supported: random weights have no quality to lose."),
    click.option(
        "--context",
        type=count_of("max_context"),
        help=f"Tokens per piece of the text. [default: the model's context, at most {_MAX_CONTEXT}; K/V at several]",
    ),
    click.option(
        "--max-kl",
        callback=_parse_max_kl,
        default=str(_MAX_KL),
        metavar="NATS",
        help=f"The loss per token that the smallest KV format may have, for the verdict. [default: {_MAX_KL}]",
    ),
    click.option("--threads", type=count_of("threads"), help="Worker threads. [default: the cores this process may use]"),
    click.option("--json", "as_json", is_flag=True, help="Print only the JSON line."),
)


def _quality_options(command: Callable[..., _R]) -> Callable[..., _R]:
    return gathered(command, _OPTIONS, "options", lambda values: QualityOptions(**values))


@click.command()
@_quality_options
def quality(options: QualityOptions) -> None:
    """Measure how far every weight and KV format is from float32, and how many bits it takes per weight.

    KL divergence in nats per token, how often the most likely token is the same, and perplexity, over all tokens of a text. One
    thing changes at a time: weights with float32 K/V, then K/V with float32 weights. Bits are those of all matrices in memory,
    and of all but embedding and head. Then every KV format against bfloat16 K/V on the model's own weights, at several lengths of
    context, and for the bundled model how many facts it still recalls. The last line is JSON.

    \b
    Example:
      quire bench quality
      quire bench quality -m path/to/model --text book.txt --context 1024
      quire bench quality -m model-w4 --against path/to/model
    """
    from quire.bench.kv_quality import measure_kv_quality
    from quire.bench.quality import Compared, measure_quality
    from quire.cli.bench_view import circumstances, progress_shown
    from quire.cli.display import print_json
    from quire.cli.kv_quality_view import show_kv_quality
    from quire.cli.load import find_directory
    from quire.models.checkpoint import load_checkpoint

    _refuse(options)
    directory = find_directory(options.model)
    checkpoint = load_checkpoint(directory)
    original = checkpoint if options.against is None else load_checkpoint(find_directory(options.against))
    work = _work(options, directory, min(checkpoint.spec.max_context, original.spec.max_context))
    threads: EngineOptions = {} if options.threads is None else {"threads": options.threads}
    with progress_shown() as on_progress:
        report = measure_quality(Compared(checkpoint, original), work, threads, on_progress)
        kv_report = measure_kv_quality(
            checkpoint, _kv_work(options, directory, checkpoint.spec.max_context), threads, on_progress
        )
    if not options.as_json:
        _print(report)
        show_kv_quality(kv_report, options.max_kl)
    settings = {
        "model": options.model or "bundled",
        "against": options.against,
        "text": _text_name(options),
    }
    smallest = kv_report.smallest_within(options.max_kl)
    verdict = {"max_kl": options.max_kl, "smallest_kv": None if smallest is None else smallest.kv}
    print_json(asdict(report) | {"kv": asdict(kv_report) | verdict} | circumstances(settings))


def _refuse(options: QualityOptions) -> None:
    """Raises ConfigError for random weights."""
    if options.config is not None:
        raise ConfigError(
            "random weights have no quality to lose",
            given=options.config.name,
            next_step="Name a trained model with -m, or leave it out for the bundled one.",
        )


def _text_name(options: QualityOptions) -> str:
    if options.text is not None:
        return options.text.name
    return "held-out chats" if options.model is None else "prose"


def _work(options: QualityOptions, directory: Path, max_context: int) -> QualityWork:
    """Returns the tokens to predict, in pieces of one context."""
    from quire.bench.quality import in_pieces

    texts, begin = _texts(options, directory)
    return in_pieces(texts, begin, min(options.context or _MAX_CONTEXT, max_context))


def _kv_work(options: QualityOptions, directory: Path, max_context: int) -> KVWork:
    """Returns the same texts in pieces of every context, and for the bundled model the chats whose facts it recalls."""
    from quire.bench.kv_quality import KVWork, contexts_of
    from quire.bench.quality import in_pieces
    from quire.bench.recall import CONTEXT, recall_chats
    from quire.text.tokenizer import Tokenizer

    texts, begin = _texts(options, directory)
    longest = max(len(text.token_ids) for text in texts) + len(begin)
    contexts = contexts_of(max_context, longest) if options.context is None else (min(options.context, max_context),)
    has_recall = options.model is None and options.text is None and options.context is None and max_context >= CONTEXT
    return KVWork(
        pieces=tuple(in_pieces(texts, begin, context) for context in contexts),
        chats=tuple(recall_chats(Tokenizer.from_model(directory))) if has_recall else (),
    )


def _texts(options: QualityOptions, directory: Path) -> tuple[Sequence[Text], Sequence[int]]:
    """Returns the texts, and the tokens before each piece: the file, the prose, or for the bundled model the held-out chats."""
    from quire.bench.held_out import PROSE, held_out_texts, plain_text
    from quire.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_model(directory)
    if options.text is None and options.model is None:
        return held_out_texts(tokenizer), ()
    return [plain_text(read_text_file(options.text or PROSE), tokenizer)], tokenizer.encode("")


def _print(report: QualityReport) -> None:
    from quire.cli.display import listing, out_console

    title = f"{report.executor} against float32, in {report.num_pieces} pieces of at most {report.context} tokens"
    rows = [_row(each, "all tokens", each.tokens) for each in report.formats]
    rows += [_row(each, "answers", each.answers) for each in report.formats if each.answers is not None]
    out_console().print(listing(title, _HEADERS, rows))


def _row(quality: FormatQuality, what: str, found: Divergence) -> tuple[str, ...]:
    return (
        what,
        str(found.num_tokens),
        quality.weights,
        f"{quality.bits.everywhere:.2f}",
        f"{quality.bits.layers:.2f}",
        quality.kv,
        f"{found.kl_mean:.2e}",
        f"{found.kl_p99:.2e}",
        f"{found.kl_max:.2e}",
        f"{found.top1:.2%}",
        f"{found.perplexity:.4f}",
    )
