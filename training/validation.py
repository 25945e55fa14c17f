"""Measures a network on the validation images, for each degradation."""

from collections.abc import Mapping

import torch
from PIL import Image
from torch import Tensor

from training.degradations import Degradation
from training.network import SCALE
from training.samplers import to_tensor
from training.torch_network import EDSR

INPUT_SIDE = 96


def measure_luma(image: Tensor) -> Tensor:
    """(N, 3, H, W) BGR from 0 to 255 -> (N, H, W) luma, ITU-R BT.601, from 16 to 235."""
    blue, green, red = image.unbind(1)
    return 16 + (24.966 * blue + 128.553 * green + 65.481 * red) / 255


class Validator:
    """The validation images and their degraded inputs."""

    def __init__(
        self, pictures: list[Image.Image], degradations: Mapping[str, Degradation]
    ) -> None:
        side = INPUT_SIDE * SCALE
        corner = (pictures[0].width - side) // 2
        crops = [
            picture.crop((corner, corner, corner + side, corner + side)) for picture in pictures
        ]
        self.targets = torch.stack([to_tensor(crop) for crop in crops]).float()
        self.inputs = {
            name: torch.stack([to_tensor(degrade(crop)) for crop in crops]).float()
            for name, degrade in degradations.items()
        }

    def measure(self, network: EDSR, device: torch.device) -> dict[str, float]:
        """Return the mean PSNR in dB on Y, without the border, for each degradation."""
        figures = {}
        for name, inputs in self.inputs.items():
            with torch.no_grad():
                results = torch.cat([network(x[None].to(device)).cpu() for x in inputs])
            results = results.round().clamp(0, 255)
            error = measure_luma(results) - measure_luma(self.targets)
            error = error[:, SCALE:-SCALE, SCALE:-SCALE]
            figures[name] = float((10 * torch.log10(255**2 / error.square().mean((1, 2)))).mean())
        return figures
