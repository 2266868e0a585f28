"""Facts about this machine, each None or empty where the operating system does not tell."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

_CPU_NAME_FIELDS = ("model name", "Model", "Hardware")
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


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
    return Machine(
        cpu=cpu_name(_read("/proc/cpuinfo")) or platform.processor() or "unknown",
        architecture=platform.machine(),
        system=f"{platform.system()} {platform.release()}",
        num_cores=os.cpu_count() or 1,
        num_usable_cores=num_usable_cores,
        memory_bytes=memory_limit(_physical_bytes(), [_read(path) for path in _CGROUP_LIMITS]),
        available_bytes=available_bytes(_read("/proc/meminfo")),
    )


def cpu_name(cpuinfo: str) -> str | None:
    """Returns the processor's name in the text of /proc/cpuinfo."""
    fields = dict(_split(line) for line in reversed(cpuinfo.splitlines()) if ":" in line)
    return next((fields[name] for name in _CPU_NAME_FIELDS if fields.get(name)), None)


def available_bytes(meminfo: str) -> int | None:
    """Returns what can be allocated without swapping, from the text of /proc/meminfo."""
    fields = dict(_split(line) for line in meminfo.splitlines() if ":" in line)
    amount = fields.get("MemAvailable", "").removesuffix(" kB")
    return int(amount) * 1024 if amount.isdigit() else None


def memory_limit(physical: int | None, cgroup_limits: list[str]) -> int | None:
    """Returns the smallest of the physical memory and the limits that control groups set ("max" sets none)."""
    limits = [int(text) for text in (limit.strip() for limit in cgroup_limits) if text.isdigit()]
    return min([*limits, *([] if physical is None else [physical])], default=None)


def _physical_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _split(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
