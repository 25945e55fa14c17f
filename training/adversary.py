"""A patch discriminator, which gives the restoring model the texture that L1 averages away.

Isola et al., CVPR 2017 (judging patches, beside the input); Miyato et al., ICLR 2018 (spectral
normalisation); Wang et al., CVPR 2018 (matching the discriminator's features).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from training.network import INPUT_RANGE, SCALE

CHANNELS = (48, 96, 192, 192)
SLOPE = 0.2
RATE, BETAS = 2e-4, (0.5, 0.99)
FEATURES_WEIGHT = 10.0
# The adversary's gradient at the result, of the length of the other losses' gradient.
GRADIENT_SHARE = 0.7


class Discriminator(nn.Module):
    """Judges patches of 38 pixels: large where they look like a target's."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                spectral_norm(nn.Conv2d(6, CHANNELS[0], 3, padding=1)),
                spectral_norm(nn.Conv2d(CHANNELS[0], CHANNELS[1], 4, 2, 1)),
                spectral_norm(nn.Conv2d(CHANNELS[1], CHANNELS[2], 4, 2, 1)),
                spectral_norm(nn.Conv2d(CHANNELS[2], CHANNELS[3], 4, 2, 1)),
                nn.Conv2d(CHANNELS[3], 1, 3, padding=1),
            ]
        )

    def forward(self, inputs: Tensor, image: Tensor) -> list[Tensor]:
        """Return every layer's output, the judgement last.

        Parameters
        ----------
        inputs : (N, 3, H, W) from 0 to 255
        image : (N, 3, 3 H, 3 W), a result or a target
        """
        enlarged = functional.interpolate(inputs, scale_factor=SCALE, mode="bilinear")
        x = torch.cat([enlarged, image], 1) / INPUT_RANGE - 1
        outputs = []
        for layer in self.layers[:-1]:
            x = functional.leaky_relu(layer(x), SLOPE)
            outputs.append(x)
        return [*outputs, self.layers[-1](x)]


class Adversary:
    """Trains the discriminator, and says which way a result should move."""

    def __init__(self, device: torch.device) -> None:
        self.discriminator = Discriminator().to(device, memory_format=torch.channels_last)
        self.optimiser = torch.optim.Adam(self.discriminator.parameters(), RATE, BETAS)

    def judge(self, inputs: Tensor, image: Tensor) -> list[Tensor]:
        """Return the discriminator's outputs."""
        with torch.autocast(inputs.device.type, torch.bfloat16):
            return [output.float() for output in self.discriminator(inputs, image)]

    def learn(self, inputs: Tensor, results: Tensor, targets: Tensor) -> None:
        """Take a step of the discriminator: hinge loss."""
        real, made = self.judge(inputs, targets)[-1], self.judge(inputs, results)[-1]
        loss = functional.relu(1 - real).mean() + functional.relu(1 + made).mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()

    def differentiate(self, inputs: Tensor, results: Tensor, targets: Tensor) -> Tensor:
        """Return the gradient of the adversarial loss at the results."""
        results = results.detach().requires_grad_()
        with torch.no_grad():
            wanted = self.judge(inputs, targets)
        outputs = self.judge(inputs, results)
        pairs = zip(outputs[:-1], wanted[:-1], strict=True)
        features = torch.stack([functional.l1_loss(*pair) for pair in pairs]).sum()
        loss = FEATURES_WEIGHT * features - outputs[-1].mean()
        (gradient,) = torch.autograd.grad(loss, results)
        return gradient


def add_in_proportion(gradient: Tensor, other: Tensor, share: float) -> Tensor:
    """Add to a gradient another, scaled to a share of its length."""
    return gradient + share * gradient.norm() / other.norm().clamp_min(1e-12) * other
