"""A long comparison in pieces: what a run writes for another to read, and several runs as one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quire.bench.machine_peak import MachinePeak

from .protocol import ContestantError
from .results import Record, Results
from .roster import parse_name
from .workloads import Phase, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A run that was written: its results, and what must be the same in all runs of one report."""

    results: Results
    workloads: tuple[Workload, ...]
    shape: str
    threads: int
    machine: Mapping[str, Any]
    commands: tuple[str, ...]


def as_records(results: Results) -> list[dict[str, Any]]:
    """Returns every measurement in JSON's types."""
    return [
        asdict(each) | {"name": str(each.name), "workload": _workload_fields(each.workload), "token_ids": list(each.token_ids)}
        for each in results.records
    ]


def read_piece(path: Path) -> Piece:
    """Returns what a run wrote into its results.json."""
    found = json.loads(path.read_text(encoding="utf-8"))
    records = [_record(fields) for fields in found["records"]]
    results = Results(
        records=records,
        facts={parse_name(name): facts for name, facts in found["contestants"].items()},
        missing=found["missing"],
        peaks=[MachinePeak(**fields) for fields in found["peaks"]],
    )
    return Piece(
        results=results,
        workloads=tuple(_workload(fields) for fields in found["workloads"]),
        shape=found["shape"],
        threads=found["threads"],
        machine=found["machine"],
        commands=tuple(found["commands"]),
    )


def merged(pieces: Sequence[Piece]) -> Piece:
    """Returns several runs as one; raises ContestantError where they are not of one shape, machine and number of threads.

    What one run says is missing stays missing only where no other run measured it.
    """
    first = pieces[0]
    for other in pieces[1:]:
        for what, one, another in zip(("shape", "threads", "CPU"), _sameness(first), _sameness(other), strict=True):
            if one != another:
                raise ContestantError(f"these runs do not belong together: {what} {one} and {another}")
    results = Results(
        records=[record for piece in pieces for record in piece.results.records],
        facts={name: facts for piece in pieces for name, facts in piece.results.facts.items()},
        peaks=[peak for piece in pieces for peak in piece.results.peaks],
    )
    came = {str(name) for name in results.names()}
    results.missing = {what: why for piece in pieces for what, why in piece.results.missing.items() if what not in came}
    return Piece(
        results=results,
        workloads=tuple(dict.fromkeys(workload for piece in pieces for workload in piece.workloads)),
        shape=first.shape,
        threads=first.threads,
        machine=first.machine,
        commands=tuple(command for piece in pieces for command in piece.commands),
    )


def _sameness(piece: Piece) -> tuple[str, int, Any]:
    return piece.shape, piece.threads, piece.machine.get("cpu")


def workload_fields(workloads: Sequence[Workload]) -> list[dict[str, Any]]:
    """Returns the workloads of a run in JSON's types."""
    return [_workload_fields(each) for each in workloads]


def _workload_fields(workload: Workload) -> dict[str, Any]:
    return asdict(workload) | {"phase": workload.phase.value}


def _workload(fields: Mapping[str, Any]) -> Workload:
    return Workload(**{**fields, "phase": Phase(fields["phase"])})


def _record(fields: Mapping[str, Any]) -> Record:
    typed = {
        "name": parse_name(fields["name"]),
        "workload": _workload(fields["workload"]),
        "token_ids": tuple(fields["token_ids"]),
    }
    return Record(**{**fields, **typed})
