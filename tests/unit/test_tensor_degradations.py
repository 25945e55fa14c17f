"""Degradations for a GPU give what Pillow and libjpeg give."""

import numpy as np
import pytest
from PIL import Image, ImageFilter
from skimage import data

from training import degradations
from training.network import Floats
from training.tensor_degradations import blur, compress, reduce

PHOTOS = [
    Image.fromarray(photo).convert("RGB")
    for photo in (
        data.astronaut()[:192, 150:342],
        data.coffee()[60:252, 150:342],
        data.chelsea()[50:242, 120:312],
    )
]


def to_batch(images: list[Image.Image]) -> Floats:
    return (
        np.stack([np.asarray(image) for image in images]).transpose(0, 3, 1, 2).astype(np.float32)
    )


def as_it_is(constant: Floats) -> Floats:
    return constant


@pytest.mark.parametrize(
    ("name", "resampling"),
    [
        ("bicubic", degradations.BICUBIC),
        ("area", degradations.AREA),
        ("lanczos", degradations.LANCZOS),
    ],
)
def test_reduced_images_are_within_a_level_of_pillows(
    name: str, resampling: Image.Resampling
) -> None:
    expected = to_batch([degradations.reduce(photo, resampling) for photo in PHOTOS])
    assert np.abs(reduce(to_batch(PHOTOS), name, as_it_is) - expected).max() <= 1


@pytest.mark.parametrize("subsample", [False, True])
def test_compressed_images_are_within_two_levels_of_libjpegs_in_the_mean(subsample: bool) -> None:
    qualities = np.array([30, 70, 95], np.float32)
    expected = to_batch(
        [
            degradations.compress(photo, int(quality), 2 if subsample else 0)
            for photo, quality in zip(PHOTOS, qualities, strict=True)
        ]
    )
    results = compress(to_batch(PHOTOS), qualities, subsample, as_it_is)
    assert (np.abs(results - expected).mean((1, 2, 3)) < 1).all()
    # They are not merely the originals.
    assert np.abs(to_batch(PHOTOS) - expected).mean() > 2


def test_blurred_images_are_near_pillows() -> None:
    expected = to_batch([photo.filter(ImageFilter.GaussianBlur(1.5)) for photo in PHOTOS])
    results = blur(to_batch(PHOTOS), 1.5, as_it_is)
    # Pillow approximates a Gaussian by boxes.
    assert np.abs(results - expected)[..., 8:-8, 8:-8].mean() < 1
