"""vLLM on the CPU as a contestant: its engine in this process, stepped by hand, prefix cache off."""

from __future__ import annotations

import os
from importlib.util import find_spec
from itertools import count

from .protocol import Contestant, ContestantError, Entry, Reading
from .timing import timed_steps
from .workloads import Prompts

_KV_GIB = "4"
_SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": _KV_GIB,
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_TARGET_DEVICE": "cpu",
}


class VllmContestant:
    """An `LLM` whose engine is driven step by step."""

    def __init__(self, entry: Entry) -> None:
        cores = sorted(os.sched_getaffinity(0))[: entry.threads]
        os.environ |= {**_SETTINGS, "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores))}
        import vllm

        self._vllm = vllm
        self._ids = count()
        self._llm = vllm.LLM(
            model=str(entry.model),
            skip_tokenizer_init=True,
            dtype="bfloat16",
            enable_prefix_caching=False,
            max_model_len=entry.max_tokens,
            max_num_seqs=entry.max_batch,
        )

    @property
    def facts(self) -> dict[str, str]:
        return {"vllm": self._vllm.__version__, **_SETTINGS}

    def run(self, prompts: Prompts, num_new: int) -> Reading:
        engine = self._llm.llm_engine
        sampling = self._vllm.SamplingParams(temperature=0, max_tokens=num_new, ignore_eos=True, detokenize=False)
        tokens: dict[str, list[int]] = {}
        for prompt in prompts:
            request_id = str(next(self._ids))
            tokens[request_id] = []
            engine.add_request(request_id, {"prompt_token_ids": prompt}, sampling)

        def step() -> list[list[int]]:
            for output in engine.step():
                tokens[output.request_id] = list(output.outputs[0].token_ids)
            return list(tokens.values())

        return timed_steps(step, num_new)


def open_contestant(entry: Entry) -> Contestant:
    """Loads the model; raises ContestantError where vLLM was built for another device."""
    if find_spec("vllm") is None:
        raise ContestantError("cannot be imported: No module named 'vllm'")
    import vllm.platforms

    if entry.number_format != "bfloat16":
        raise ContestantError("compared in bfloat16 only")
    if not vllm.platforms.current_platform.is_cpu():
        raise ContestantError("the vLLM installed here was not built for the CPU")
    return VllmContestant(entry)
