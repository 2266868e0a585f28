"""transformers as a contestant: its own forward pass in a plain loop, which costs less than `generate`."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import torch
import transformers

from .protocol import Contestant, ContestantError, Entry, Reading
from .workloads import Prompts


class ForwardLoop:
    """A causal model with transformers' calling convention, decoded greedily.

    `options` go into every call: how to keep only the logits of the last row, where the model can.
    """

    def __init__(self, model: Any, facts: dict[str, str], options: dict[str, int]) -> None:
        self.facts = facts
        self._model = model
        self._options = options

    def run(self, prompts: Prompts, num_new: int) -> Reading:
        times = [time.perf_counter()]
        tokens = torch.tensor(prompts)
        mask = torch.ones_like(tokens)
        found: list[torch.Tensor] = []
        past: Any = None
        for _ in range(num_new):
            output = self._model(input_ids=tokens, attention_mask=mask, past_key_values=past, use_cache=True, **self._options)
            past, tokens = output.past_key_values, output.logits[:, -1:].argmax(-1)
            mask = torch.cat([mask, torch.ones_like(tokens)], dim=1)
            found.append(tokens)
            times.append(time.perf_counter())
        seconds = [after - before for before, after in pairwise(times)]
        return Reading(prefill_s=seconds[0], steps_s=seconds[1:], token_ids=torch.cat(found, dim=1).tolist())


def open_contestant(entry: Entry) -> Contestant:
    """Loads the model in bfloat16."""
    if entry.number_format != "bfloat16":
        raise ContestantError("compared in bfloat16 only")
    torch.set_num_threads(entry.threads)
    torch.set_grad_enabled(False)
    model = transformers.AutoModelForCausalLM.from_pretrained(entry.model, dtype=torch.bfloat16).eval()
    attention = str(model.config._attn_implementation)
    facts = {"transformers": transformers.__version__, "torch": torch.__version__, "attention": attention}
    return ForwardLoop(model, facts, {"logits_to_keep": 1})
