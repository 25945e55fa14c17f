"""EDSR-baseline x3 in numpy: the reference for the exported graph.

Enhanced Deep Residual Networks for Single Image Super-Resolution, Lim et al.,
CVPR Workshops 2017: residual blocks without batch normalisation, a global skip,
and sub-pixel upsampling. Two deviations from the paper: the network adds its
detail to the input upscaled with nearest neighbour, and one convolution to 27
channels does the upsampling, which is what ``cv2.dnn_superres`` can load.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Weights = Mapping[str, Floats]

SCALE = 3
BLOCKS = 16
CHANNELS = 64
# Blue, green, red: what dnn_superres subtracts before and adds after an "edsr" network.
MEAN_BGR = (103.1545782, 111.561547, 114.35629928)
INPUT_RANGE = 127.5


def layer_shapes(blocks: int = BLOCKS, channels: int = CHANNELS) -> dict[str, tuple[int, int]]:
    """Name -> (output channels, input channels) of every 3x3 convolution, in order."""
    shapes = {"head": (channels, 3)}
    for index in range(blocks):
        shapes[f"block{index:02d}_conv1"] = (channels, channels)
        shapes[f"block{index:02d}_conv2"] = (channels, channels)
    shapes["body_end"] = (channels, channels)
    shapes["upsample"] = (3 * SCALE * SCALE, channels)
    return shapes


def count_blocks(weights: Weights) -> int:
    """Return the number of residual blocks in a set of weights."""
    return sum(name.endswith("_conv1_weight") for name in weights)


def convolve(x: Floats, weight: Floats, bias: Floats) -> Floats:
    """3x3 convolution with zero padding 1.

    Parameters
    ----------
    x : (C, H, W) float32
    weight : (O, C, 3, 3) float32
    bias : (O,) float32

    Returns
    -------
    (O, H, W) float32
    """
    height, width = x.shape[1:]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    out = np.broadcast_to(bias[:, None, None], (len(bias), height, width)).copy()
    for row in range(3):
        for column in range(3):
            window = padded[:, row : row + height, column : column + width]
            out += np.tensordot(weight[:, :, row, column], window, axes=1)
    return out


def pixel_shuffle(x: Floats, scale: int) -> Floats:
    """(C * scale**2, H, W) -> (C, H * scale, W * scale), channels ordered colour, row, column."""
    channels = x.shape[0] // scale**2
    height, width = x.shape[1:]
    grid = x.reshape(channels, scale, scale, height, width).transpose(0, 3, 1, 4, 2)
    return grid.reshape(channels, height * scale, width * scale)


def forward(weights: Weights, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Upscale an image x3 with the network's own arithmetic.

    Parameters
    ----------
    weights : arrays named as in `layer_shapes`, each with ``_weight`` and ``_bias``
    image : (H, W, 3) uint8, BGR

    Returns
    -------
    (3 H, 3 W, 3) uint8, BGR
    """

    def conv(name: str, x: Floats) -> Floats:
        return convolve(x, weights[f"{name}_weight"], weights[f"{name}_bias"])

    mean = np.array(MEAN_BGR, np.float32)[:, None, None]
    x = (image.transpose(2, 0, 1).astype(np.float32) - mean) / INPUT_RANGE
    head = conv("head", x)
    y = head
    for index in range(count_blocks(weights)):
        hidden = np.maximum(conv(f"block{index:02d}_conv1", y), 0)
        y = y + conv(f"block{index:02d}_conv2", hidden)
    detail = pixel_shuffle(conv("upsample", conv("body_end", y) + head), SCALE)
    nearest = x.repeat(SCALE, axis=1).repeat(SCALE, axis=2)
    result = (detail + nearest) * INPUT_RANGE + mean
    return np.rint(result).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
