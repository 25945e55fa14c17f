"""Arrays of samples."""

import numpy as np
import numpy.typing as npt

# (H, W) grey or (H, W, 3) BGR.
Pixels = npt.NDArray[np.uint8]
# The same with 16 bits per sample.
DeepPixels = npt.NDArray[np.uint16]
