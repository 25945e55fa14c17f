"""What training minimises, on (N, 3, H, W) BGR from 0 to 255."""

import torch
from torch import Tensor
from torch.nn import functional

# Overlapping windows for the local spectrum, in pixels of the result.
WINDOW, STRIDE = 16, 8
# Below this power, in squared levels, an amplitude is noise.
LEAST_POWER = 1e-2
# Of the spectrum's part, for the restoring model: measured, more than 6 gains no sharpness.
SPECTRUM_WEIGHT = 2.0


def measure_luma(image: Tensor) -> Tensor:
    """(N, 3, H, W) BGR from 0 to 255 -> (N, H, W) luma, ITU-R BT.601, from 16 to 235."""
    blue, green, red = image.unbind(1)
    return 16 + (24.966 * blue + 128.553 * green + 65.481 * red) / 255


def measure_spectrum(image: Tensor) -> Tensor:
    """Return the amplitudes of the luma's local spectrum, (N, rows, columns, 16, 9)."""
    window = torch.hann_window(WINDOW, device=image.device)
    parts = measure_luma(image).unfold(1, WINDOW, STRIDE).unfold(2, WINDOW, STRIDE)
    parts = (parts - parts.mean((-1, -2), keepdim=True)) * window * window[:, None]
    spectrum = torch.fft.rfft2(parts, norm="ortho")
    return (spectrum.real.square() + spectrum.imag.square() + LEAST_POWER).sqrt()


def measure_restoring_loss(results: Tensor, targets: Tensor) -> Tensor:
    """L1, and L1 between local spectra: crisp where it is uncertain where an edge lies."""
    spectra = functional.l1_loss(measure_spectrum(results), measure_spectrum(targets))
    return functional.l1_loss(results, targets) + SPECTRUM_WEIGHT * spectra
