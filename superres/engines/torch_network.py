"""The models' network in PyTorch, with the weights of a .pb."""

from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from superres.errors import ModelError
from superres.images.options import MODEL_SCALE

# What `cv2.dnn_superres` subtracts before an EDSR and adds after it: blue, green, red.
MEAN_BGR = (103.1545782, 111.561547, 114.35629928)

Floats = npt.NDArray[np.float32]
# Name -> weight (O, I, 3, 3) and bias (O,).
Layers = dict[str, tuple[Floats, Floats]]


def read_convolutions(model_path: Path) -> Layers:
    """Read the 3x3 convolutions of a graph that `training/export.py` wrote.

    Returns
    -------
    Name -> weight (O, I, 3, 3) and bias (O,), in the order of the graph

    Raises
    ------
    ModelError
        It is another network.
    """
    layers = {}
    try:
        net = cv2.dnn.readNetFromTensorflow(str(model_path))
        for layer in net.getLayerNames():
            name, _, kind = layer.partition("/")
            if kind == "conv":
                weight, bias = (np.asarray(net.getParam(layer, n), np.float32) for n in (0, 1))
                layers[name] = weight, bias.ravel()
    except cv2.error:
        layers = {}
    blocks = (len(layers) - 4) // 2
    in_blocks = [f"block{index:02d}_conv{part}" for index in range(blocks) for part in (1, 2)]
    if [*layers] != ["nearest", "head", *in_blocks, "body_end", "upsample"]:
        raise ModelError(
            f"SR_ENGINE=torch works with the embedded models' network only, which {model_path} "
            "is not"
        )
    return layers


class TorchNetwork:
    """The network of `training/network.py` on a device.

    Parameters
    ----------
    layers : see `read_convolutions`
    device, dtype : where, and in which precision
    """

    def __init__(
        self,
        torch: ModuleType,
        layers: Layers,
        device: str,
        dtype: Any,
    ) -> None:
        self._torch = torch
        self._kind = {"device": torch.device(device), "dtype": dtype}
        self._layers = {
            name: (
                torch.from_numpy(weight).to(**self._kind, memory_format=torch.channels_last),
                torch.from_numpy(bias).to(**self._kind),
            )
            for name, (weight, bias) in layers.items()
            # The input itself, which is added as it is.
            if name != "nearest"
        }
        self._blocks = (len(self._layers) - 3) // 2
        self._mean = torch.tensor(MEAN_BGR, **self._kind).view(1, 3, 1, 1)

    def __call__(self, pixels: Any, sizes: Any) -> Any:
        """Upscale a batch.

        Each convolution must see zeros beyond a tile's edge, as it does in OpenCV.

        Parameters
        ----------
        pixels : (N, H, W, 3) uint8, BGR; beyond the tiles' sizes, anything
        sizes : (N, 2) int64, height and width of each tile

        Returns
        -------
        (N, 3 H, 3 W, 3) uint8
        """
        torch = self._torch
        count, height, width, _ = pixels.shape
        rows, columns = (torch.arange(side, device=pixels.device) for side in (height, width))
        is_inside = (rows < sizes[:, :1]).unsqueeze(2) & (columns < sizes[:, 1:]).unsqueeze(1)
        inside = is_inside.unsqueeze(1).to(**self._kind)

        def convolve(name: str, x: Any) -> Any:
            return torch.nn.functional.conv2d(x, *self._layers[name], padding=1)

        # A permuted NHWC array is what channels_last means.
        x = (pixels.permute(0, 3, 1, 2).to(**self._kind) - self._mean) * inside
        head = convolve("head", x).mul_(inside)
        y = head
        for index in range(self._blocks):
            hidden = convolve(f"block{index:02d}_conv1", y).relu_().mul_(inside)
            y = torch.addcmul(y, convolve(f"block{index:02d}_conv2", hidden), inside)
        detail = convolve("upsample", torch.addcmul(head, convolve("body_end", y), inside))
        # TensorFlow's DepthToSpace: channels ordered row, column, colour.
        grid = detail.permute(0, 2, 3, 1).float().view(count, height, width, MODEL_SCALE**2, 3)
        levels = (grid + pixels.unsqueeze(3)).round_().clamp_(0, 255).to(torch.uint8)
        return (
            levels.view(count, height, width, MODEL_SCALE, MODEL_SCALE, 3)
            .permute(0, 1, 3, 2, 4, 5)
            .reshape(count, height * MODEL_SCALE, width * MODEL_SCALE, 3)
        )
