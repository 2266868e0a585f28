"""Quire against llama.cpp, vLLM-CPU, OpenVINO and transformers, whichever are installed, on one shape with random weights.

    python benchmarks/compare.py benchmarks/configs/qwen3-0.6b.json --rounds 5 --out results

Everybody gets the same weights and token ids, and is measured in turn, round by round. Writes results.md, results.json and
results.png into --out. Close other programs first. What is not installed, or fails, is listed with the reason. Engines whose
packages do not go together live in environments of their own: --python openvino=PATH/bin/python vllm=PATH/bin/python.

A long comparison goes in pieces, which one report puts together again:

    python benchmarks/compare.py CONFIG --formats int8 --workloads deep --rounds 2 --out piece-1
    python benchmarks/compare.py CONFIG --formats int8 --workloads deep --rounds 2 --first-round 2 --out piece-2
    python benchmarks/compare.py CONFIG --merge piece-1/results.json piece-2/results.json --out results
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from contestants.arguments import Asked, parse
from contestants.chart import save_chart
from contestants.pieces import Piece, merged, read_piece
from contestants.process import ContestantProcess
from contestants.protocol import ContestantError
from contestants.report import Circumstances, as_json, as_markdown
from contestants.results import Results
from contestants.roster import Name
from contestants.workloads import Workload, fitting, measured_together

from quire.bench.machine_peak import MachinePeak, measure_peak
from quire.bench.saved_model import save_random_model
from quire.cli.machine import this_machine
from quire.config import KVFormat
from quire.environment import usable_cores
from quire.executors.native import available_isas
from quire.executors.packing import Encoding, PanelFormat
from quire.executors.protocol import kv_layout
from quire.models.config_file import parse_config
from quire.models.families import build_spec
from quire.models.spec import ModelSpec

_BLOCK_SIZE = 32
_TERMINATED = 128 + signal.SIGTERM


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))  # so that contestants end with this process
    asked = parse(__doc__ or "")
    spec = build_spec(parse_config(asked.config.read_bytes()))
    if asked.merge:
        _write(asked.out, merged([read_piece(path) for path in asked.merge]), spec)
        return
    with TemporaryDirectory(prefix="quire-compare-") as work:
        model = (asked.work or Path(work)).resolve() / asked.config.stem
        if not (model / "model.safetensors").exists():
            _tell(f"writing random weights into {model.name}")
            save_random_model(asked.config, model)
        _write(asked.out, _compare(asked, model, spec), spec)


def _compare(asked: Asked, model: Path, spec: ModelSpec) -> Piece:
    workloads, beyond = fitting(asked.sizes.workloads(asked.groups), spec.max_context)
    results = Results(missing={each.name: f"beyond the model's context of {spec.max_context} tokens" for each in beyond})
    with ExitStack() as stack:
        contestants = _enter(asked, model, workloads, results, stack)
        _play(asked, contestants, workloads, results)
    return Piece(
        results=results,
        workloads=tuple(workloads),
        shape=asked.config.stem,
        threads=asked.threads,
        machine=asdict(this_machine(usable_cores())),
        commands=(shlex.join(["python", "benchmarks/compare.py", *sys.argv[1:]]),),
    )


def _enter(
    asked: Asked, model: Path, workloads: Sequence[Workload], results: Results, stack: ExitStack
) -> Mapping[Name, ContestantProcess]:
    """Starts the contestants one after another and returns those that started; `stack` ends them."""
    entered: dict[Name, ContestantProcess] = {}
    for name in asked.contestants:
        _tell(f"starting {name}")
        command = [_python(asked, name), "-m", "contestants", str(name), str(model), *_numbers(asked.threads, workloads)]
        try:
            entered[name] = stack.enter_context(ContestantProcess(command, asked.timeout_s))
            results.facts[name] = entered[name].facts
        except ContestantError as error:
            results.missing[str(name)] = str(error)
            _tell(f"{name} does not compete: {error}")
    return entered


def _python(asked: Asked, name: Name) -> str:
    """Returns the interpreter of an engine: its own, or of the engine it is a variant of, or ours."""
    own = asked.pythons.get(name.engine) or asked.pythons.get(name.engine.partition("-")[0])
    return own or sys.executable


def _numbers(threads: int, workloads: Sequence[Workload]) -> list[str]:
    """Returns the arguments that give a contestant the room that all workloads together need."""
    needs = [(each.num_tokens, each.batch, each.batch * each.num_tokens) for each in workloads]
    room = [max(column) for column in zip(*needs, strict=True)]
    reuse = ["--reuses"] if any(each.reuses for each in workloads) else []
    return ["--threads", str(threads), "--room", *map(str, room), *reuse]


def _play(asked: Asked, contestants: Mapping[Name, ContestantProcess], workloads: Sequence[Workload], results: Results) -> None:
    """Measures every contestant in every workload, round by round; the machine's peak before each round and after the last."""
    vocab_size = build_spec(parse_config(asked.config.read_bytes())).vocab_size
    run_id = time.strftime("%Y%m%dT%H%M%S")
    for round_idx in range(asked.first_round, asked.first_round + asked.rounds):
        results.peaks.append(_peak(asked.threads))
        for together in measured_together(workloads):
            for name, contestant in _in_turn(contestants, round_idx):
                _tell(f"round {round_idx + 1}: {together[0].name}, {name}")
                try:
                    if round_idx == asked.first_round:
                        contestant.run(together[0].warm_up().task(vocab_size))
                    reading = contestant.run(together[0].task(vocab_size))
                except ContestantError as error:
                    results.missing[f"{name}, {together[0].name}"] = str(error)
                    continue
                for workload in together:
                    results.add(name, workload, f"{run_id}-{round_idx}", reading)
    results.peaks.append(_peak(asked.threads))


def _in_turn(contestants: Mapping[Name, ContestantProcess], round_idx: int) -> list[tuple[Name, ContestantProcess]]:
    """Returns the remaining contestants, reversed in every second round, so that none always follows the same neighbor."""
    remaining = [(name, contestant) for name, contestant in contestants.items() if not contestant.has_ended]
    return remaining[:: -1 if round_idx % 2 else 1]


def _peak(threads: int) -> MachinePeak:
    """Measures the machine with the best instructions here; raises ExecutorUnavailableError where no core was compiled."""
    return measure_peak((available_isas() or ("",))[-1], threads, PanelFormat(Encoding.BFLOAT16))


def _write(out: Path, piece: Piece, spec: ModelSpec) -> None:
    around = Circumstances(
        shape=piece.shape,
        spec=spec,
        layout=kv_layout(spec, _BLOCK_SIZE, KVFormat.BFLOAT16),
        threads=piece.threads,
        machine=piece.machine,
        commands=piece.commands,
    )
    out.mkdir(parents=True, exist_ok=True)
    text = as_markdown(piece.results, piece.workloads, around)
    try:
        save_chart(piece.results, piece.workloads, out / "results.png")
        text += "\n![tokens a second](results.png)\n"
    except ImportError as error:
        text += f"\nNo chart was drawn: {error}.\n"
    found = as_json(piece.results, piece.workloads, around)
    (out / "results.md").write_text(text, encoding="utf-8")
    (out / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(text)
    print(json.dumps(found))


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
