"""The time of a start: import, loading from the page cache, the first token. Every run is a new process.

import quire ]  the process starts counting when Python runs its first line
load         ]  its parts in their order; the files were read just before, so the disk is not timed
                files        opened and described: config.json and headers, or a GGUF file's metadata
                tokenizer    of a model that has one
                fingerprint  a digest of the files' content, or what an earlier start remembers of it
                weights      packed, or read as an earlier start packed them; KV memory
first token  ]  a prompt of a few tokens, from submission

Then the same with a packed cache that an earlier start filled.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from quire.bench.cost import Cost, prefill_cost
from quire.bench.harness import Harness, OnProgress, Room, prompt_tokens, timed_run
from quire.bench.report import Report, Samples
from quire.engine.driving import greedy
from quire.engine.loading import open_tokenizer
from quire.engine.options import EngineOptions
from quire.errors import ExecutorError
from quire.models.checkpoint import load_checkpoint
from quire.models.gguf.splits import is_gguf, open_gguf

T = TypeVar("T")

PROMPT_TOKENS = 16
_CHUNK_BYTES = 1 << 24
_NOTES = (
    "every run is a fresh process; the files are in the page cache; the roofline of loading is reading the weights once",
    "engine: the modules imported when first needed; load: files, tokenizer, fingerprint and weights together",
    "fingerprint: the content of these files is remembered; the first start after they changed reads it, a second per gigabyte "
    "and core",
    "ready: import, engine, load and first token together",
    "process: from starting Python to its end, as a user waits for it",
)
_TOKENIZER_FILE = "tokenizer.json"
_READY = ("import", "engine", "load", "first token")
_CACHED = ", packed cache"
_CHILD = """
import json, sys, time
start = time.perf_counter()
import quire
imported = time.perf_counter()
from quire.bench.startup import load_and_answer
engine = time.perf_counter() - imported
times = load_and_answer(sys.argv[1], json.loads(sys.argv[2]))
print(json.dumps({"import": imported - start, "engine": engine, **times}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartupWork:
    """A model directory or GGUF file to start from, and how often."""

    directory: Path
    repeat: int = 5


def measure_startup(work: StartupWork, options: EngineOptions, on_progress: OnProgress | None = None) -> Report:
    """Reports import, load and first token. Raises ExecutorError where a process fails, and what loading raises."""
    checkpoint = load_checkpoint(work.directory)
    plain: EngineOptions = {**options, "packed_cache": "off"}
    harness = Harness(checkpoint, plain, Room(num_requests=1, num_tokens=PROMPT_TOKENS + 1), on_progress)
    costs: Mapping[str, tuple[Cost, ...]] = {
        "import": (),
        "weights": (Cost(flops=0, num_bytes=harness.weights.total),),
        "first token": (prefill_cost(harness.spec, 1, 0, PROMPT_TOKENS),),
    }

    def samples() -> Iterator[Samples]:
        _read_once(work.directory)
        with TemporaryDirectory(prefix="quire-bench-") as packed:
            cached: EngineOptions = {**options, "packed_cache": packed}
            _start_once(work.directory, cached)
            found: dict[str, list[float]] = defaultdict(list)
            for done in range(work.repeat):
                for kind, chosen in (("", plain), (_CACHED, cached)):
                    for part, duration in _start_once(work.directory, chosen).items():
                        found[part + kind].append(duration)
                harness.show_progress("Starting", done + 1, work.repeat)
        for part, seconds in sorted(found.items(), key=lambda each: each[0].endswith(_CACHED)):
            yield Samples(name=part, seconds=seconds, costs=costs.get(part.removesuffix(_CACHED), ()))

    return harness.report("start", samples, _NOTES)


def load_and_answer(directory: str, options: EngineOptions) -> dict[str, float]:
    """Loads a model and computes one token; returns the seconds of each part. What the fresh process runs."""
    parts = _Parts()
    path = Path(directory)
    checkpoint = parts.timed("files", lambda: load_checkpoint(path))
    if checkpoint.gguf is not None or (path / _TOKENIZER_FILE).is_file():
        parts.timed("tokenizer", lambda: open_tokenizer(checkpoint))
    parts.timed("fingerprint", checkpoint.weights.identify)
    harness = parts.timed("weights", lambda: Harness(checkpoint, options, Room(num_requests=1, num_tokens=PROMPT_TOKENS + 1)))
    first = greedy("first", prompt_tokens(harness.spec.vocab_size, 0, PROMPT_TOKENS), 1)
    load = sum(parts.seconds.values())
    return {**parts.seconds, "load": load, "first token": timed_run(harness.core(), [first]).prefill}


class _Parts:
    """The seconds that parts of a start took, by their name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def timed(self, part: str, work: Callable[[], T]) -> T:
        """Does the work and notes its time."""
        start = time.perf_counter()
        done = work()
        self.seconds[part] = time.perf_counter() - start
        return done


def _start_once(directory: Path, options: EngineOptions) -> dict[str, float]:
    start = time.perf_counter()
    command = [sys.executable, "-c", _CHILD, str(directory), json.dumps(options)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    whole = time.perf_counter() - start
    if child.returncode != 0:
        reason = (child.stderr.strip().splitlines() or ["nothing was printed"])[-1]
        raise ExecutorError("a fresh process could not start the model", given=reason, next_step="Run `quire verify` on it.")
    times: dict[str, float] = json.loads(child.stdout.splitlines()[-1])
    return {**times, "ready": sum(times[part] for part in _READY), "process": whole}


def _read_once(directory: Path) -> None:
    """Brings the weight files into the page cache."""
    is_file = is_gguf(directory)
    for path in [file.path for file in open_gguf(directory).files] if is_file else sorted(directory.glob("*.safetensors")):
        with path.open("rb") as file:
            while file.read(_CHUNK_BYTES):
                pass
