"""Teacher forcing as training does it: one pass over all positions with the full causal matrix, and no cache. Needs torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from quire.arrays import Float64Array
from quire.executors.torch_decoder import Decoder
from quire.models.checkpoint import Checkpoint


class TorchScorer:
    """The torch `Decoder` with the checkpoint's weights as stored, in float32 arithmetic, on a number of threads."""

    def __init__(self, checkpoint: Checkpoint, threads: int) -> None:
        self._decoder = Decoder.from_weights(checkpoint.spec, checkpoint.weights)
        self._threads = threads

    def logprobs(self, token_ids: Sequence[int]) -> Float64Array:
        """Returns the log-probability [T - 1] of every token after the first, given all tokens before it.

        Logits are float32; each row's softmax is taken in float64, as `LLM.score` does, so that only the logits can differ.
        """
        num_threads = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                logits, _ = self._decoder(torch.tensor([list(token_ids)]), use_cache=False)
                pairs = zip(logits[0], token_ids[1:], strict=False)
                return np.array([float(row.double().log_softmax(dim=-1)[target]) for row, target in pairs])
        finally:
            torch.set_num_threads(num_threads)
