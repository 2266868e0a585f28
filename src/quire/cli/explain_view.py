"""What the cache did for a prompt, as `run --explain` and `/cache` show it: each admission, and a map of the prompt's blocks."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from quire.cli.display import facts
from quire.kv.explain import Admission, CacheExplanation, MissReason
from quire.units import cdiv

if TYPE_CHECKING:
    from rich.table import Table

MAP_CELLS = 64
_REASONS: Mapping[MissReason, str] = MappingProxyType(
    {
        MissReason.COLD: "nothing more is cached after this prefix",
        MissReason.DIVERGED: "the cached tokens continue differently",
        MissReason.EVICTED: "more was cached, but it has been evicted",
        MissReason.PARTIAL: "nothing more could be reused: the rest is computed for its logits",
        MissReason.DISABLED: "the prefix cache is off",
        MissReason.BYPASSED: "every further token was computed because the logits of all of them were wanted",
    }
)


def explanation_view(explanation: CacheExplanation, block_size: int, title: str = "Prompt") -> list[Table]:
    """Returns a table for each admission that is kept, the first one, under `title`, first."""
    left_out = f"; {explanation.num_left_out} before it left out" if explanation.num_left_out else ""
    titles = [title, *(f"Let in again, in step {each.step}" for each in explanation.admissions[1:])]
    if left_out and len(titles) > 1:
        titles[1] += left_out
    admissions = zip(titles, explanation.admissions, strict=True)
    return [facts(title, admission_rows(admission, block_size)) for title, admission in admissions]


def admission_rows(admission: Admission, block_size: int) -> dict[str, str]:
    """Returns the length of the match, why it ended, what was waited for, and a map of the blocks."""
    rows = {"reused": f"{admission.num_reused_tokens} of {admission.num_tokens} tokens", "then": _REASONS[admission.reason]}
    if admission.num_copied_tokens:
        rows["reused"] += f", {admission.num_copied_tokens} of them copied into a block of its own"
    if admission.divergence is not None:
        position, _, _, text, cached_text = admission.divergence
        texts = "" if text is None else f": {text!r} here, {cached_text!r} in the cache"
        rows["diverged"] = f"at token {position}, in block {position // block_size}{texts}"
    if admission.loss is not None:
        step, num_steps_ago, request_id = admission.loss
        rows["evicted"] = f"in step {step}, {num_steps_ago} steps before, for {request_id or 'another request'}"
    if admission.num_matched_tokens > admission.num_reused_tokens:
        num_again = admission.num_matched_tokens - admission.num_reused_tokens
        rows["again"] = f"{num_again} tokens match but lie in a tile that had to be computed again"
    if admission.waited_for:
        rows["waited"] = f"for {', '.join(admission.waited_for)}, which computed this prefix"
    return rows | {"blocks": f"{prompt_map(admission, block_size)}  (= reused, + computed; {block_size} tokens each)"}


def prompt_map(admission: Admission, block_size: int) -> str:
    """Returns one character per block of the prompt, or per run of blocks if the prompt is long."""
    num_blocks, num_reused = cdiv(admission.num_tokens, block_size), admission.num_reused_tokens // block_size
    return scaled("=" * num_reused + "+" * (num_blocks - num_reused), "=+")


def scaled(states: str, order: str) -> str:
    """Returns at most MAP_CELLS characters, each the one of its run that comes last in `order`."""
    per_cell = max(1, cdiv(len(states), MAP_CELLS))
    return "".join(max(states[start : start + per_cell], key=order.index) for start in range(0, len(states), per_cell))


def explanation_json(explanation: CacheExplanation) -> list[dict[str, Any]]:
    """Returns what each admission says, by name."""
    return [_admission_json(admission) for admission in explanation.admissions]


def _admission_json(admission: Admission) -> dict[str, Any]:
    divergence, loss = admission.divergence, admission.loss
    return {
        "step": admission.step,
        "tokens": admission.num_tokens,
        "reused_tokens": admission.num_reused_tokens,
        "copied_tokens": admission.num_copied_tokens,
        "computed_tokens": admission.num_computed_tokens,
        "matched_tokens": admission.num_matched_tokens,
        "reason": admission.reason.value,
        "diverged": None if divergence is None else divergence._asdict(),
        "evicted": None if loss is None else loss._asdict(),
        "waited_for": list(admission.waited_for),
    }
