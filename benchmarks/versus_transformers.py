"""Quire against transformers: one shape, random weights, contestants alternated, each in a process of its own.

    python benchmarks/versus_transformers.py benchmarks/configs/qwen3-0.6b.json --rounds 3

Prints a Markdown table of medians and a last line of JSON with every reading. Close other programs first.
Needs the development tools (torch, transformers).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

PREFILL_TOKENS, DECODE_PROMPT, DECODE_TOKENS = 512, 16, 64
Reading = dict[str, float]


def run_quire(config: Path, threads: int) -> Reading:
    """Returns tokens a second of prefill and decode, through `quire bench`."""
    reading: Reading = {}
    for phase, depth in (("prefill", PREFILL_TOKENS), ("decode", DECODE_PROMPT)):
        command = ["bench", phase, "--config", str(config), "--depth", str(depth), "--threads", str(threads), "--repeat", "1"]
        result = run_child([sys.executable, "-m", "quire.cli", *command, "--json"])
        reading[phase] = result["speeds"][-1]["tokens_per_second"]
        reading["bandwidth"] = max(result["before"]["bandwidth"], result["after"]["bandwidth"])
    return reading


def run_transformers(config: Path, threads: int) -> Reading:
    """Returns the same of transformers' own forward pass with its dynamic cache."""
    return run_child([sys.executable, __file__, str(config), "--threads", str(threads), "--child"])


def run_child(command: list[str]) -> Reading:
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    reading: Reading = json.loads(output.splitlines()[-1])
    return reading


def measure_transformers(config: Path, threads: int) -> Reading:
    """Measures in this process: one warm-up, one prefill, then greedy decode."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    model_config = transformers.AutoConfig.for_model(**json.loads(config.read_text()))
    model = transformers.AutoModelForCausalLM.from_config(model_config, dtype=torch.bfloat16).eval()
    prompt = torch.arange(PREFILL_TOKENS)[None] % model_config.vocab_size
    model(prompt[:, :DECODE_PROMPT], logits_to_keep=1)
    start = time.perf_counter()
    model(prompt, logits_to_keep=1)
    prefill = time.perf_counter() - start
    found = model(prompt[:, :DECODE_PROMPT], use_cache=True, logits_to_keep=1)
    steps: list[float] = []
    for _ in range(DECODE_TOKENS):
        start = time.perf_counter()
        next_id = found.logits[:, -1:].argmax(-1)
        found = model(next_id, past_key_values=found.past_key_values, use_cache=True)
        steps.append(time.perf_counter() - start)
    return {"prefill": PREFILL_TOKENS / prefill, "decode": 1 / statistics.median(steps)}


def table(readings: dict[str, list[Reading]]) -> str:
    """Returns the Markdown table of medians and ratios."""
    lines = ["| workload | Quire | transformers | ratio |", "|---|---|---|---|"]
    for phase, name in (("prefill", f"prefill {PREFILL_TOKENS}"), ("decode", "decode, batch 1")):
        ours, theirs = (statistics.median(each[phase] for each in readings[who]) for who in ("quire", "transformers"))
        lines.append(f"| {name} | {ours:.1f} tokens/s | {theirs:.1f} tokens/s | {ours / theirs:.1f}x |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure_transformers(arguments.config, arguments.threads)))
        return
    readings: dict[str, list[Reading]] = {"quire": [], "transformers": []}
    for _ in range(arguments.rounds):
        readings["quire"].append(run_quire(arguments.config, arguments.threads))
        readings["transformers"].append(run_transformers(arguments.config, arguments.threads))
    print(table(readings))
    print(json.dumps(readings))


if __name__ == "__main__":
    main()
