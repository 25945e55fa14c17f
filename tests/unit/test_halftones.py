"""How far off the model is on images that it was not trained on: pixel-level dithering."""

from io import BytesIO

import numpy as np
from PIL import Image

from super_resolution import SuperResolution
from superres.engines.upscaler import Upscaler
from testkit.kinds import enhance
from testkit.pictures import encode

# Bayer's 4x4 matrix, whose thresholds give 15 tones between black and white.
BAYER = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]])
SIDE, BORDER = 48, 8
# In levels of 255. Measured with the current model: 5.6 on average, 8.8 at most (64, a quarter of
# white, becomes 72), and 9.8 with error diffusion. A model trained on halftones would lower these.
MEAN_SHIFT, LARGEST_SHIFT, DIFFUSED_SHIFT = 5.8, 9.1, 10.1


def shift_tone(model: Upscaler, dithered: np.ndarray) -> float:
    """Return by how much upscaling raises the mean of a black and white pattern."""
    content = enhance(model, encode(Image.fromarray(dithered), "PNG"))
    with Image.open(BytesIO(content)) as image:
        enlarged = np.asarray(image, float)
    inside, edge = slice(BORDER, -BORDER), slice(3 * BORDER, -3 * BORDER)
    return float(enlarged[edge, edge].mean() - dithered[inside, inside].mean())


def test_tones_of_ordered_dither_shift_no_further_than_measured(
    real_super_resolution: SuperResolution,
) -> None:
    thresholds = np.tile(BAYER, (SIDE // 4, SIDE // 4))
    patterns = [np.where(thresholds < tone, 255, 0).astype(np.uint8) for tone in range(1, 16)]
    shifts = np.abs([shift_tone(real_super_resolution, pattern) for pattern in patterns])
    assert shifts.mean() < MEAN_SHIFT
    assert shifts.max() < LARGEST_SHIFT


def test_tone_of_diffused_dither_shifts_no_further_than_measured(
    real_super_resolution: SuperResolution,
) -> None:
    diffused = Image.new("L", (2 * SIDE, 2 * SIDE), 64).convert("1").convert("L")
    pattern = np.asarray(diffused)[SIDE // 2 : -SIDE // 2, SIDE // 2 : -SIDE // 2]
    assert abs(shift_tone(real_super_resolution, pattern)) < DIFFUSED_SHIFT


def test_plain_tones_do_not_shift(real_super_resolution: SuperResolution) -> None:
    for tone in (16, 64, 128, 200):
        plain = np.full((SIDE, SIDE), tone, np.uint8)
        assert abs(shift_tone(real_super_resolution, plain)) < 0.5
