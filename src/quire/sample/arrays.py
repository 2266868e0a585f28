"""The arrays of this package besides rows of logits from the model (float32): rows once changed (float64), token ids, masks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

IdArray = npt.NDArray[np.intp]
RowArray = npt.NDArray[np.floating]
TokenIds = npt.NDArray[np.integer]
MaskWords = npt.NDArray[np.uint32]
