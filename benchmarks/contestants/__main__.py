"""A contestant's process: `python -m contestants openvino:int8 MODEL --threads 2 --room 4128 16 4128`, run inside benchmarks/.

It needs the engine's own packages and nothing of Quire's, unless the engine is Quire, or llama.cpp whose GGUF must be written.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .protocol import Entry
from .roster import parse_name
from .serving import serve


def main() -> None:
    parser = argparse.ArgumentParser(prog="contestants", description=__doc__)
    parser.add_argument("name", type=parse_name)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument(
        "--room", type=int, nargs=3, required=True, help="tokens of a request, requests together, and tokens together"
    )
    parser.add_argument("--reuses", action="store_true", help="a task will reuse what is cached")
    arguments = parser.parse_args()
    max_tokens, max_batch, max_total = arguments.room
    entry = Entry(
        model=arguments.model,
        engine=arguments.name.engine,
        number_format=arguments.name.number_format,
        threads=arguments.threads,
        max_tokens=max_tokens,
        max_batch=max_batch,
        max_total=max_total,
        reuses=arguments.reuses,
    )
    serve(arguments.name.engine, entry)


if __name__ == "__main__":
    main()
