"""Facts about this machine, each None or empty if the operating system does not report it."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from quire.environment import read_memory

_CPU_NAME_FIELDS = ("model name", "Model", "Hardware")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What an engine can use here. `memory_bytes` is the physical memory, or a container's limit if that is less."""

    cpu: str
    architecture: str
    system: str
    num_cores: int
    num_usable_cores: int
    memory_bytes: int | None
    available_bytes: int | None


def this_machine(num_usable_cores: int) -> Machine:
    """Reads the facts."""
    memory = read_memory()
    return Machine(
        cpu=cpu_name(_read("/proc/cpuinfo")) or platform.processor() or "unknown",
        architecture=platform.machine(),
        system=f"{platform.system()} {platform.release()}",
        num_cores=os.cpu_count() or 1,
        num_usable_cores=num_usable_cores,
        memory_bytes=None if memory is None else memory.total_bytes,
        available_bytes=None if memory is None else memory.available_bytes,
    )


def cpu_name(cpuinfo: str) -> str | None:
    """Returns the processor's name in the text of /proc/cpuinfo."""
    fields = dict(_split(line) for line in reversed(cpuinfo.splitlines()) if ":" in line)
    return next((fields[name] for name in _CPU_NAME_FIELDS if fields.get(name)), None)


def _split(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
