"""The command line of benchmarks/compare.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quire.environment import default_threads

from .roster import ROSTER, Name, Precision, parse_names
from .workloads import GROUPS, Sizes

_SIZES = Sizes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the command line asks for."""

    config: Path
    out: Path
    merge: tuple[Path, ...]
    contestants: tuple[Name, ...]
    groups: tuple[str, ...]
    sizes: Sizes
    rounds: int
    first_round: int
    threads: int
    timeout_s: float
    pythons: dict[str, str]
    work: Path | None


def parse(description: str, words: Sequence[str] | None = None) -> Asked:
    """Returns what is asked for; ends the program with a message where that is nothing."""
    given = _parser(description).parse_args(words)
    formats = {Precision[each.upper()] for each in given.formats}
    return Asked(
        config=given.config,
        out=given.out,
        merge=tuple(given.merge),
        contestants=tuple(name for names in given.contestants for name in names if name.precision in formats),
        groups=tuple(given.workloads),
        sizes=Sizes(
            prompt=given.prompt,
            deep=given.deep,
            num_new=given.new,
            batches=tuple(given.batches),
            requests=given.requests,
            shared=given.shared,
            own=given.own,
        ),
        rounds=given.rounds,
        first_round=given.first_round,
        threads=given.threads,
        timeout_s=given.timeout,
        pythons=dict(given.python),
        work=given.work,
    )


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="a config.json, such as those in benchmarks/configs")
    _add_subset(parser)
    _add_sizes(parser)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--first-round", type=int, default=0, help="number of the first round; odd ones go backwards")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds to wait for a start or a measurement")
    parser.add_argument(
        "--python", type=_parse_python, nargs="+", default=[], metavar="ENGINE=PATH", help="an engine's own interpreter"
    )
    parser.add_argument("--work", type=Path, help="keep the weights here for the next run")
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument(
        "--merge", type=Path, nargs="+", default=[], metavar="RESULTS.JSON", help="measure nothing; make one report of these runs"
    )
    return parser


def _add_subset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--contestants",
        type=parse_names,
        nargs="+",
        default=[ROSTER],
        metavar="ENGINE[:FORMAT]",
        help="all of ENGINE without FORMAT",
    )
    precisions = [each.name.lower() for each in Precision]
    parser.add_argument("--formats", choices=precisions, nargs="+", default=precisions)
    parser.add_argument("--workloads", choices=GROUPS, nargs="+", default=list(GROUPS))


def _add_sizes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", type=int, default=_SIZES.prompt, help="tokens of the short prefill")
    parser.add_argument("--deep", type=int, default=_SIZES.deep, help="tokens of the long prefill, and before deep decode")
    parser.add_argument(
        "--new", type=int, default=_SIZES.num_new, help="tokens to generate; half of it deep and in batches, twice after a prefix"
    )
    parser.add_argument("--batches", type=int, nargs="+", default=list(_SIZES.batches))
    parser.add_argument("--requests", type=int, default=_SIZES.requests, help="requests with a shared prefix")
    parser.add_argument("--shared", type=int, default=_SIZES.shared, help="tokens of the shared prefix, and of a first turn")
    parser.add_argument("--own", type=int, default=_SIZES.own, help="tokens of each request after it, and of a second turn")


def _parse_python(text: str) -> tuple[str, str]:
    engine, separator, path = text.partition("=")
    if not separator:
        raise ValueError(f"{text!r} is not ENGINE=PATH")
    return engine, str(Path(path).absolute())
