"""The arrays of this package: one row of logits, float32 from the model or float64 once changed; token ids and masks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
IdArray = npt.NDArray[np.intp]
RowArray = npt.NDArray[np.floating]
TokenIds = npt.NDArray[np.integer]
MaskWords = npt.NDArray[np.uint32]
