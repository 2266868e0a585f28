"""vLLM on the CPU as a contestant: its engine in this process, stepped by hand.

Its prefix cache is on only where a workload is about reuse; a salt for every measurement keeps them apart even then.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib.util import find_spec
from itertools import count
from typing import Any

from .protocol import Contestant, ContestantError, Entry, Prompts, Reading, Task
from .timing import timed_steps

_KV_GIB = "4"
_SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": _KV_GIB,
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_TARGET_DEVICE": "cpu",
}
_MAX_BATCHED_TOKENS = 2048  # it warms up with as many, which takes minutes where bfloat16 is slow


class VllmContestant:
    """An `LLM` whose engine is driven step by step."""

    def __init__(self, entry: Entry) -> None:
        import vllm

        self._vllm = vllm
        self._ids = count()
        self._reuses = entry.reuses
        self._llm = vllm.LLM(
            model=str(entry.model),
            skip_tokenizer_init=True,
            dtype=entry.number_format,
            enable_prefix_caching=entry.reuses,
            max_model_len=entry.max_tokens,
            max_num_seqs=entry.max_batch,
            max_num_batched_tokens=_MAX_BATCHED_TOKENS,
        )

    @property
    def facts(self) -> dict[str, str]:
        return {"vllm": self._vllm.__version__, "prefix cache": "on" if self._reuses else "off", **_SETTINGS}

    def run(self, task: Task) -> Reading:
        measurement = next(self._ids)
        salts = [f"{measurement}" if task.reuses else f"{measurement}-{index}" for index in range(len(task.prompts))]
        if task.num_known:
            timed_steps(self._steps([task.prompts[0][: task.num_known]], salts[:1], 1), 1)
        return timed_steps(self._steps(task.prompts, salts, task.num_new), task.num_new)

    def _steps(self, prompts: Prompts, salts: Iterable[str], num_new: int) -> _Steps:
        sampling = self._vllm.SamplingParams(temperature=0, max_tokens=num_new, ignore_eos=True, detokenize=False)
        tokens: dict[str, list[int]] = {}
        for prompt, salt in zip(prompts, salts, strict=True):
            request_id = f"request-{next(self._ids)}"
            tokens[request_id] = []
            words = {"prompt_token_ids": prompt, **({"cache_salt": salt} if self._reuses else {})}
            self._llm.llm_engine.add_request(request_id, words, sampling)
        return _Steps(self._llm.llm_engine, tokens)


class _Steps:
    """One step of the engine; the tokens of its requests so far."""

    def __init__(self, engine: Any, tokens: dict[str, list[int]]) -> None:
        self._engine = engine
        self._tokens = tokens

    def __call__(self) -> list[list[int]]:
        for output in self._engine.step():
            self._tokens[output.request_id] = list(output.outputs[0].token_ids)
        return list(self._tokens.values())


def open_contestant(entry: Entry) -> Contestant:
    """Loads the model; raises ContestantError where vLLM was built for another device."""
    if find_spec("vllm") is None:
        raise ContestantError("cannot be imported: No module named 'vllm'")
    _set_environment(entry.threads)
    import vllm.platforms

    if entry.number_format not in ("bfloat16", "float32"):
        raise ContestantError("compared in bfloat16 and float32 only")
    if not vllm.platforms.current_platform.is_cpu():
        raise ContestantError("the vLLM installed here was not built for the CPU")
    return VllmContestant(entry)


def _set_environment(threads: int) -> None:
    """Says how many threads there are, and where; torch reads it when it is imported, and vLLM else takes one."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    bound = {"OMP_NUM_THREADS": str(threads), "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores))}
    os.environ |= {**_SETTINGS, **bound}
