"""What sampling asks of one row of logits: from the compiled core where it was built, else from the definitions in NumPy.

Both give the same tokens and the same bits, on every instruction set: see `buckets`.
"""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np

from quire.request import Draw, Logprob, TokenLogprobs
from quire.sample import ranking
from quire.sample.arrays import Float32Array, RowArray
from quire.sample.buckets import sharpness
from quire.sample.draw import draw, least_nats


def _find_core() -> ModuleType | None:
    try:
        from quire.native import _core
    except ImportError:
        return None
    return _core


_CORE = _find_core()
_FASTEST = ""  # the name of an instruction set; all give the same bits


def best_id(logits: Float32Array) -> int | None:
    """Returns the id of the largest logit of a row [V], the smallest of equal ones; None where a logit is not finite."""
    if _CORE is not None:
        found: int | None = _CORE.best_id(_FASTEST, logits)
        return found
    return int(logits.argmax()) if np.isfinite(logits).all() else None


def drawn_id(logits: RowArray, method: Draw, noise: float) -> int:
    """Returns what `draw` returns."""
    if _CORE is None:
        return draw(logits, method, noise)
    token_id: int = _CORE.draw(
        _FASTEST, logits, sharpness(method.temperature), method.top_k, method.top_p, least_nats(method), noise
    )
    return token_id


def token_logprobs(logits: Float32Array, chosen_id: int, num_top: int) -> TokenLogprobs:
    """Returns the chosen token first, then the `num_top` most likely ones, of one row of finite logits [V].

    `rank` counts from 1 in the order of `largest_ids`, so no two tokens of a row share a rank.
    """
    best, log_total = float(logits.max()), math.log(_exp_sum(logits))
    candidates = {
        chosen_id: Logprob(logprob=float(logits[chosen_id]) - best - log_total, rank=_num_before(logits, chosen_id) + 1)
    }
    if num_top:
        for rank, token_id in enumerate(_largest_ids(logits, num_top), start=1):
            candidates.setdefault(token_id, Logprob(logprob=float(logits[token_id]) - best - log_total, rank=rank))
    return candidates


def _exp_sum(logits: Float32Array) -> float:
    return ranking.exp_sum(logits) if _CORE is None else float(_CORE.exp_sum(_FASTEST, logits))


def _num_before(logits: Float32Array, token_id: int) -> int:
    return ranking.num_before(logits, token_id) if _CORE is None else int(_CORE.num_before(logits, token_id))


def _largest_ids(logits: Float32Array, count: int) -> list[int]:
    if _CORE is None:
        ids: list[int] = ranking.largest_ids(logits, count).tolist()
        return ids
    return list(_CORE.largest_ids(_FASTEST, logits, count))
