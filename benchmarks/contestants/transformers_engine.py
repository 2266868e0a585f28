"""transformers as a contestant: its own forward pass in a plain loop, which costs less than `generate`."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import torch
import transformers

from .protocol import Contestant, ContestantError, Entry, Reading, Task

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


class ForwardLoop:
    """A causal model with transformers' calling convention, decoded greedily.

    `options` go into every call: how to keep only the logits of the last row, where the model can.
    """

    def __init__(self, model: Any, facts: dict[str, str], options: dict[str, int]) -> None:
        self.facts = facts
        self._model = model
        self._options = options

    def run(self, task: Task) -> Reading:
        if task.num_shared:
            raise ContestantError("shares no prefix between requests")
        tokens, past = torch.tensor(task.prompts), None
        mask = torch.ones_like(tokens)
        if task.num_known:
            known = slice(None, task.num_known)
            past = self._forward(tokens[:, known], mask[:, known], None).past_key_values
            tokens = tokens[:, task.num_known :]
        return self._decode(tokens, mask, past, task.num_new)

    def _decode(self, tokens: torch.Tensor, mask: torch.Tensor, past: Any, num_new: int) -> Reading:
        times = [time.perf_counter()]
        found: list[torch.Tensor] = []
        for _ in range(num_new):
            output = self._forward(tokens, mask, past)
            past, tokens = output.past_key_values, output.logits[:, -1:].argmax(-1)
            mask = torch.cat([mask, torch.ones_like(tokens)], dim=1)
            found.append(tokens)
            times.append(time.perf_counter())
        seconds = [after - before for before, after in pairwise(times)]
        return Reading(prefill_s=seconds[0], steps_s=seconds[1:], token_ids=torch.cat(found, dim=1).tolist())

    def _forward(self, tokens: torch.Tensor, mask: torch.Tensor, past: Any) -> Any:
        return self._model(input_ids=tokens, attention_mask=mask, past_key_values=past, use_cache=True, **self._options)


def open_contestant(entry: Entry) -> Contestant:
    """Loads the model; in float32 the same weights, for processors that multiply bfloat16 slowly."""
    if entry.number_format not in _DTYPES:
        raise ContestantError(f"compared in {', '.join(_DTYPES)} only")
    torch.set_num_threads(entry.threads)
    torch.set_grad_enabled(False)
    dtype = _DTYPES[entry.number_format]
    model = transformers.AutoModelForCausalLM.from_pretrained(entry.model, dtype=dtype).eval()
    attention = str(model.config._attn_implementation)
    facts = {"transformers": transformers.__version__, "torch": torch.__version__, "attention": attention}
    return ForwardLoop(model, facts, {"logits_to_keep": 1})
