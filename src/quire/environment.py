"""What surrounds the process: the environment variables Quire obeys, all of them, and the memory and cores. Read here only.

    QUIRE_ISA        use this instruction set instead of the fastest one (`quire info` lists the names)
    QUIRE_THREADS    worker threads, where the configuration leaves the number open
    QUIRE_PREFETCH   auto, none, near, far, both or paced: how kernels prefetch weights; auto: as a short probe finds best
    QUIRE_PACKED_CACHE  off, on or a directory: where packed weights are kept, where the option is left out
    QUIRE_API_KEY    the keys that `quire serve` accepts, one per line, where no file is given
    QUIRE_OFFLINE    1, true, yes or on: never use the network; models come from directories and the local cache
    HF_HUB_OFFLINE   the same, under the name other Hugging Face tools obey
    XDG_CACHE_HOME   where digests of weight files, what probes found, and packed weights if that is on, are kept; an absolute
                     path, else ~/.cache
    XDG_STATE_HOME   where `quire chat` keeps its history; an absolute path, else ~/.local/state

An option given in code or on the command line wins over a variable. An empty variable counts as unset.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from quire.errors import ConfigError

MAX_THREADS = 1024
_PREFETCH_WORDS = ("auto", "none", "near", "far", "both", "paced")
_PROCESSOR_FIELDS = ("vendor_id", "cpu family", "model", "stepping", "model name", "CPU implementer", "CPU part", "CPU variant")
_SWITCH_VALUES: Mapping[str, bool] = MappingProxyType(
    dict.fromkeys(("1", "true", "yes", "on"), True) | dict.fromkeys(("0", "false", "no", "off", ""), False)
)
_CGROUP_V2 = ("memory.max", "memory.current", "")
_CGROUP_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")  # the prefix of sums over child groups
_RECLAIMABLE = ("inactive_file", "active_file", "slab_reclaimable")


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What the variables say; None where one is unset."""

    isa: str | None = None
    threads: int | None = None
    is_offline: bool = False
    state_home: Path | None = None
    packed_cache: str | None = None
    api_keys: str | None = None
    prefetch: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The machine's memory, or what a control group leaves of it to this process, in bytes.

    `available_bytes` is free now or can be made free by dropping caches; `swap_bytes` is free swap space.
    """

    total_bytes: int
    available_bytes: int
    swap_bytes: int = 0

    @property
    def reachable_bytes(self) -> int:
        """What can be had now without ending another program, however slowly."""
        return self.available_bytes + self.swap_bytes


def read_environment(variables: Mapping[str, str] | None = None) -> Environment:
    """Returns the settings in `variables` (None: this process's); raises ConfigError for a value that means nothing."""
    source = os.environ if variables is None else variables
    return Environment(
        isa=source.get("QUIRE_ISA", "").strip() or None,
        threads=_read_threads(source.get("QUIRE_THREADS", "").strip()),
        is_offline=_read_switch("QUIRE_OFFLINE", source) or _read_switch("HF_HUB_OFFLINE", source),
        state_home=_read_absolute(source.get("XDG_STATE_HOME", "")),
        packed_cache=source.get("QUIRE_PACKED_CACHE", "").strip() or None,
        api_keys=source.get("QUIRE_API_KEY", "").strip() or None,
        prefetch=_read_prefetch(source.get("QUIRE_PREFETCH", "").strip().lower()),
    )


def cache_directory(variables: Mapping[str, str] | None = None) -> Path | None:
    """Returns where Quire keeps what it can make again, below `XDG_CACHE_HOME` or ~/.cache; None where there is no home."""
    home = _read_absolute((os.environ if variables is None else variables).get("XDG_CACHE_HOME", ""))
    try:
        return (home or Path.home() / ".cache") / "quire"
    except RuntimeError:
        return None


def default_threads() -> int:
    """Returns the default number of threads: QUIRE_THREADS, else one per usable core."""
    return read_environment().threads or usable_cores()


def usable_cores() -> int:
    """Returns the cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _read_threads(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= MAX_THREADS):
        raise ConfigError(
            "QUIRE_THREADS must be a number of threads",
            given=text[:40],
            limit=f"1 to {MAX_THREADS}",
            next_step="Correct or unset QUIRE_THREADS.",
        )
    return int(text)


def _read_prefetch(text: str) -> str | None:
    """Returns the word; None for `auto`, which is what an unset variable means."""
    if text and text not in _PREFETCH_WORDS:
        raise ConfigError(
            "QUIRE_PREFETCH names no way to prefetch",
            given=text[:40],
            limit=", ".join(_PREFETCH_WORDS),
            next_step="Correct or unset QUIRE_PREFETCH.",
        )
    return text if text not in ("", "auto") else None


def _read_absolute(text: str) -> Path | None:
    """Returns the directory; None for a relative one, which the XDG specification says to ignore."""
    return Path(text) if Path(text).is_absolute() else None


def _read_switch(name: str, source: Mapping[str, str]) -> bool:
    text = source.get(name, "").strip().lower()
    if text not in _SWITCH_VALUES:
        raise ConfigError(f"{name} must be on or off", given=text[:40], limit="1 or 0", next_step=f"Correct or unset {name}.")
    return _SWITCH_VALUES[text]


def processor(root: Path = Path("/")) -> str:
    """Returns what tells this processor's kind from others. `root` holds proc."""
    lines = (line.partition(":") for line in reversed(_read(root / "proc/cpuinfo").splitlines()))
    fields = {name.strip(): value.strip() for name, _, value in lines}  # of the first core
    known = [fields[name] for name in _PROCESSOR_FIELDS if fields.get(name)]
    return " ".join(known) or platform.processor() or platform.machine()


def read_memory(root: Path = Path("/")) -> Memory | None:
    """Returns the memory this process may use; None where the operating system does not tell. `root` holds proc and sys."""
    fields = _numbers(_read(root / "proc/meminfo"), factor=1024)
    total = fields.get("MemTotal", _physical_bytes())
    if total is None:
        return None
    available = fields.get("MemAvailable", total)
    for directory, files in _memory_groups(root):
        limit, used, reclaimable = _usage(directory, files)
        if limit is not None:
            total, available = min(total, limit), min(available, max(0, limit - used + reclaimable))
    return Memory(total_bytes=total, available_bytes=min(available, total), swap_bytes=fields.get("SwapFree", 0))


def _memory_groups(root: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Yields the control groups around this process, its own and all above it, with the names of their files."""
    for line in ("0::/", "0:memory:/", *_read(root / "proc/self/cgroup").splitlines()):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        is_v2 = number == "0" and not controllers
        if not is_v2 and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" if is_v2 else root / "sys/fs/cgroup/memory"
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            yield top.joinpath(*parts[:depth]), _CGROUP_V2 if is_v2 else _CGROUP_V1


def _usage(directory: Path, files: tuple[str, str, str]) -> tuple[int | None, int, int]:
    """Returns a group's limit (None: none), the bytes it uses, and those of them that the kernel would give back."""
    limit, used = (_read(directory / name).strip() for name in files[:2])
    if not limit.isdigit() or not used.isdigit():
        return (int(limit) if limit.isdigit() else None), 0, 0
    statistics = _numbers(_read(directory / "memory.stat"), factor=1)
    return int(limit), int(used), sum(statistics.get(files[2] + name, 0) for name in _RECLAIMABLE)


def _numbers(text: str, factor: int) -> dict[str, int]:
    """Returns the numbers in lines such as `MemTotal:  100 kB` or `active_file 4096`."""
    words = (line.replace(":", " ").split() for line in text.splitlines())
    return {each[0]: int(each[1]) * factor for each in words if len(each) > 1 and each[1].isdigit()}


def _physical_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
