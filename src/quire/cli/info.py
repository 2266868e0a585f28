"""`quire info`: what this machine and this installation provide, and why something is missing."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import click

from quire import __version__
from quire.cli.machine import Machine, this_machine
from quire.config import ExecutorKind
from quire.environment import read_environment
from quire.units import format_bytes

PACKAGES = ("numpy", "tokenizers", "safetensors", "jinja2", "huggingface-hub", "click", "rich")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorState:
    """One executor: `problem` is None if it can run."""

    name: str
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """Everything `quire info` shows; `isa` and `numerics` are None if no compiled core can run, `bundled_model` if there is none.

    `numerics` names what the bits depend on besides weights and formats: the kernels' version and the instruction set.
    `prefetch` says how kernels prefetch weights, as far as that is known before a model is loaded.
    """

    version: str
    machine: Machine
    isas: tuple[str, ...]
    isa: str | None
    numerics: str | None
    prefetch: str | None
    threads: int
    executors: tuple[ExecutorState, ...]
    packages: dict[str, str | None]
    python: str
    bundled_model: str | None


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def info(as_json: bool) -> None:
    """Show the machine, instruction sets, executors, threads and versions.

    QUIRE_ISA forces a slower instruction set, QUIRE_THREADS sets the number of threads, QUIRE_PREFETCH how kernels prefetch.

    \b
    Example:
      quire info
      quire info --json
    """
    from quire.cli.display import print_json

    facts = gather_info()
    if as_json:
        print_json(_as_json(facts))
    else:
        _print_tables(facts)


def gather_info() -> Info:
    """Collects the facts; raises ConfigError for an environment variable with an invalid value."""
    from quire.environment import default_threads, usable_cores
    from quire.executors.native import NUMERICS_VERSION, available_isas

    environment = read_environment()
    isas = available_isas()
    isa = next((name for name in reversed(isas) if environment.isa in (None, name)), None)
    return Info(
        version=__version__,
        machine=this_machine(usable_cores()),
        isas=isas,
        isa=isa,
        numerics=None if isa is None else f"native-{NUMERICS_VERSION} {isa}",
        prefetch=None if isa is None else _prefetch(isa, default_threads()),
        threads=default_threads(),
        executors=tuple(_executor_state(kind, isas, environment.isa) for kind in ExecutorKind),
        packages={name: _version_of(name) for name in PACKAGES},
        python=platform.python_version(),
        bundled_model=_bundled_model(),
    )


def _prefetch(isa: str, threads: int) -> str:
    """Returns what QUIRE_PREFETCH says, or what probes found, by weight format."""
    from quire.executors.prefetch import all_remembered

    if (forced := read_environment().prefetch) is not None:
        return f"{forced} (QUIRE_PREFETCH)"
    known = [f"{weights} {pattern.value}" for weights, pattern in sorted(all_remembered(isa, threads).items())]
    return f"{'; '.join(known)} (probed)" if known else "probed when a model is loaded"


def _executor_state(kind: ExecutorKind, isas: tuple[str, ...], forced_isa: str | None) -> ExecutorState:
    problem = None
    if kind is ExecutorKind.NATIVE and not isas:
        problem = "the native core is not compiled here: install a C++17 compiler and CMake and reinstall Quire"
    elif kind is ExecutorKind.NATIVE and forced_isa is not None and forced_isa not in isas:
        problem = f"QUIRE_ISA={forced_isa} is not one of {', '.join(isas)}"
    elif kind is ExecutorKind.TORCH and find_spec("torch") is None:
        problem = "torch is not installed: run pip install 'quire[torch]'"
    return ExecutorState(name=kind.value, problem=problem)


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _bundled_model() -> str | None:
    from quire.errors import ModelNotFoundError
    from quire.models.bundled import directory

    try:
        return str(directory())
    except ModelNotFoundError:
        return None


def _as_json(facts: Info) -> dict[str, Any]:
    executors = {state.name: {"available": state.problem is None, "problem": state.problem} for state in facts.executors}
    return asdict(facts) | {"executors": executors}


def _print_tables(facts: Info) -> None:
    from quire.cli.display import facts as table
    from quire.cli.display import out_console

    console = out_console()
    console.print(table(f"Quire {facts.version}", _engine_rows(facts)), "", table("Machine", _machine_rows(facts.machine)), "")
    console.print(table("Versions", {"python": facts.python} | {k: v or "missing" for k, v in facts.packages.items()}))


def _engine_rows(facts: Info) -> dict[str, str]:
    isas = ", ".join(f"{isa} (chosen)" if isa == facts.isa else isa for isa in facts.isas)
    executors = {
        f"executor {state.name}": "available" if state.problem is None else f"not available: {state.problem}"
        for state in facts.executors
    }
    return executors | {
        "instruction sets": isas or "none compiled",
        "numerics": facts.numerics or "not bit-stable: only the reference executor can run",
        "prefetch": facts.prefetch or "none",
        "threads": str(facts.threads),
        "bundled model": facts.bundled_model or "none",
    }


def _machine_rows(machine: Machine) -> dict[str, str]:
    free = "" if machine.available_bytes is None else f", {format_bytes(machine.available_bytes)} available"
    return {
        "cpu": machine.cpu,
        "cores": f"{machine.num_usable_cores} usable of {machine.num_cores}",
        "memory": "unknown" if machine.memory_bytes is None else f"{format_bytes(machine.memory_bytes)}{free}",
        "system": f"{machine.system} ({machine.architecture})",
    }
