"""From gradients to steps: parameters with and without weight decay, the learning-rate schedule, and the optimizer's state.

AdamW: Loshchilov and Hutter 2019. Muon: Jordan et al. 2024; its steps are scaled to the size of AdamW's (Liu et al. 2025), so
that both use the same learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from quire.errors import CheckpointError
from quire.train.recipe import OptimizerKind, Recipe

_BETAS = (0.9, 0.95)


class Optimizer:
    """Updates all parameters of a model."""

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self._recipe = recipe
        self._names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
        self._parts = list(_parts(self._names, recipe))

    def clip(self) -> float:
        """Clips the global gradient norm to the recipe's limit; returns the norm before."""
        return float(nn.utils.clip_grad_norm_(list(self._names), self._recipe.clip_norm))

    def step(self, rate: float) -> None:
        """Updates every parameter by its gradient and clears the gradients."""
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()
            part.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Returns the moments of every parameter by name."""
        return {
            f"{self._names[parameter]}.{key}": value if isinstance(value, Tensor) else torch.tensor(value)
            for part in self._parts
            for parameter, moments in part.state.items()
            for key, value in moments.items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state` returned; raises CheckpointError if moments are missing. Before the first step there are none."""
        if not state:
            return
        by_parameter: dict[str, dict[str, Tensor]] = {}
        for name, value in state.items():
            parameter, key = name.rsplit(".", 1)
            by_parameter.setdefault(parameter, {})[key] = value
        for part in self._parts:
            for parameter in (parameter for group in part.param_groups for parameter in group["params"]):
                name = self._names[parameter]
                if name not in by_parameter:
                    raise CheckpointError(
                        "the checkpoint lacks an optimizer state",
                        given=name,
                        next_step="Start a new run in another directory.",
                    )
                part.state[parameter] = by_parameter[name]


def learning_rate(recipe: Recipe, step: int, num_steps: int) -> float:
    """Returns the rate of step `step` of `num_steps`: linear up, then a cosine down."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / max(1, num_steps - recipe.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return recipe.learning_rate * (recipe.final_rate_share + (1 - recipe.final_rate_share) * cosine)


def _parts(names: Mapping[Tensor, str], recipe: Recipe) -> Iterator[torch.optim.Optimizer]:
    """Yields the optimizers: weight decay applies to matrices, Muon to matrices other than token and position tables."""
    matrices = [parameter for parameter in names if parameter.ndim == 2]
    vectors = [parameter for parameter in names if parameter.ndim != 2]
    if recipe.optimizer is OptimizerKind.MUON:
        inner = [parameter for parameter in matrices if names[parameter].startswith("layers.")]
        matrices = [parameter for parameter in matrices if not names[parameter].startswith("layers.")]
        yield torch.optim.Muon(inner, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw")
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    yield torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=_BETAS, fused=True)
