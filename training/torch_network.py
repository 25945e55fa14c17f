"""The network of `training.network` in PyTorch."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.network import INPUT_RANGE, MEAN_BGR, SCALE, Floats, Weights, layer_shapes


class EDSR(nn.Module):
    """EDSR-baseline x3; (N, 3, H, W) BGR from 0 to 255 in, (N, 3, 3 H, 3 W) out, not clipped."""

    def __init__(self, blocks: int = 16, channels: int = 64) -> None:
        super().__init__()
        self.blocks = blocks
        self.layers = nn.ModuleDict(
            {
                name: nn.Conv2d(inputs, outputs, 3, padding=1)
                for name, (outputs, inputs) in layer_shapes(blocks, channels).items()
            }
        )
        self.register_buffer("mean", torch.tensor(MEAN_BGR).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Upscale a batch of images."""
        x = (image - self.mean) / INPUT_RANGE
        head = self.layers["head"](x)
        y = head
        for index in range(self.blocks):
            hidden = functional.relu(self.layers[f"block{index:02d}_conv1"](y))
            y = y + self.layers[f"block{index:02d}_conv2"](hidden)
        detail = self.layers["upsample"](self.layers["body_end"](y) + head)
        detail = functional.pixel_shuffle(detail, SCALE)
        nearest = functional.interpolate(x, scale_factor=SCALE)
        return (detail + nearest) * INPUT_RANGE + self.mean


def load_weights(network: EDSR, weights: Weights) -> None:
    """Load arrays named as in `layer_shapes` into a network."""
    with torch.no_grad():
        for name, layer in network.layers.items():
            layer.weight.copy_(torch.from_numpy(weights[f"{name}_weight"].copy()))
            layer.bias.copy_(torch.from_numpy(weights[f"{name}_bias"].copy()))


def read_weights(network: EDSR) -> dict[str, Floats]:
    """Return a network's weights as arrays named as in `layer_shapes`."""
    weights = {}
    for name, layer in network.layers.items():
        weights[f"{name}_weight"] = layer.weight.detach().cpu().numpy().astype(np.float32)
        weights[f"{name}_bias"] = layer.bias.detach().cpu().numpy().astype(np.float32)
    return weights
