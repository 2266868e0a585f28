"""One checkpoint in both worlds."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch

from quire.models.checkpoint import Checkpoint
from support.checkpoints import Case
from support.driver import Logits


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The same checkpoint as `transformers` sees it (float32 arithmetic on the stored values) and as Quire loaded it."""

    case: Case
    model: Any
    checkpoint: Checkpoint

    def expected(self, token_ids: list[int]) -> Logits:
        """Returns the logits [T, V] of transformers."""
        with torch.no_grad():
            return self.model(torch.tensor([token_ids])).logits[0].numpy()

    def expected_from_bfloat16(self, token_ids: list[int]) -> Logits:
        """Returns the logits [T, V] of transformers in float32 arithmetic on matrices rounded to bfloat16."""
        rounded = copy.deepcopy(self.model)
        with torch.no_grad():
            for name, parameter in rounded.named_parameters():
                if parameter.ndim > 1 and "wpe" not in name:
                    parameter.copy_(parameter.bfloat16().float())
            return rounded(torch.tensor([token_ids])).logits[0].numpy()

    def expected_in_bfloat16(self, token_ids: list[int]) -> Logits:
        """Returns the logits [T, V] of transformers in its own bfloat16 arithmetic."""
        directory = self.checkpoint.directory
        model = type(self.model).from_pretrained(directory, dtype=torch.bfloat16, attn_implementation="eager")
        with torch.no_grad():
            return model(torch.tensor([token_ids])).logits[0].float().numpy()

    def expected_greedy(self, token_ids: list[int], num_tokens: int) -> list[int]:
        """Returns the tokens that transformers' own greedy search appends."""
        prompt = torch.tensor([token_ids])
        options = {"do_sample": False, "max_new_tokens": num_tokens, "pad_token_id": 0, "attention_mask": torch.ones_like(prompt)}
        return self.model.generate(prompt, **options)[0, len(token_ids) :].tolist()
