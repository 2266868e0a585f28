"""Types of the arrays that modules hand to each other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int32Array = npt.NDArray[np.int32]
BitsArray = npt.NDArray[np.uint16]
"""The bits of bfloat16 or float16 values."""
