"""What 16 bits and other sizes gain, measured against the ground truth.

    python -m bench.fidelity

16 bits: gradients and photographs with true 16-bit samples (photographs averaged 2x2 in floating
point) are reduced to a third, upscaled, and compared with the originals. Sizes: photographs are
reduced to a half and a quarter and upscaled again.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image
from skimage import data

from super_resolution import SuperResolution
from superres.images.options import Options
from superres.images.picture import Picture
from superres.images.pixels import DeepPixels, Pixels
from superres.images.resampling import DEEP_PER_LEVEL, to_levels

Floats = npt.NDArray[np.float64]
BICUBIC, LANCZOS = Image.Resampling.BICUBIC, Image.Resampling.LANCZOS
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")


def resample(samples: npt.ArrayLike, width: int, height: int, kind: Image.Resampling) -> Floats:
    """Resample (H, W, C) samples of any depth in floating point."""
    array = np.asarray(samples, np.float32)
    planes = [
        np.asarray(Image.fromarray(array[:, :, channel]).resize((width, height), kind), np.float64)
        for channel in range(array.shape[2])
    ]
    return np.dstack(planes)


def to_deep(samples: Floats) -> DeepPixels:
    """Round samples from 0 to 65535."""
    return np.clip(np.rint(samples), 0, 65535).astype(np.uint16)


def measure_error(result: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Return the root mean square error in 8-bit levels, without 6 pixels of border."""
    difference = (np.asarray(result, np.float64) - np.asarray(truth, np.float64))[6:-6, 6:-6]
    return float(np.sqrt((difference**2).mean()) / DEEP_PER_LEVEL)


def count_longest_band(result: npt.NDArray[np.generic]) -> int:
    """Return the length of the longest run of equal pixels in the middle row."""
    changes = np.flatnonzero(np.diff(result[result.shape[0] // 2, 6:-6, 1].astype(np.int64)))
    edges = np.concatenate([[-1], changes, [result.shape[1] - 13]])
    return int(np.diff(edges).max())


def deep_pictures() -> dict[str, Floats]:
    """Return images with samples from 0 to 65535 whose sides are multiples of three."""
    column, row = np.meshgrid(np.linspace(0, 1, 1200), np.linspace(0, 1, 600))
    ramp = np.dstack([column * 9000 + 20000, column * 6000 + 30000, column * 3000 + 40000])
    sky = 30000 + 12000 * np.sqrt(column * row)
    pictures = {"horizontal ramp": ramp, "sky": np.dstack([sky * 1.3, sky, sky * 0.7])}
    for name in PHOTOS:
        photo = getattr(data, name)()[:, :, ::-1].astype(np.float64) * DEEP_PER_LEVEL
        height, width = (side // 6 * 6 for side in photo.shape[:2])
        photo = photo[:height, :width].reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3))
        pictures[f"{name}, averaged"] = photo
    return pictures


def measure_depth(model: SuperResolution) -> None:
    """Print the error of 8 and 16 bits."""
    print("| 16 bits | bicubic 16 | network 8 | network and 16 | longest band 8 | 16 |")
    print("|---|---|---|---|---|---|")
    for name, truth in deep_pictures().items():
        height, width = truth.shape[:2]
        deep = to_deep(resample(truth, width // 3, height // 3, BICUBIC))
        picture = Picture(to_levels(deep), deep=deep)
        enlarged = model.enlarge(picture)
        assert enlarged.deep is not None
        eight = enlarged.pixels.astype(np.float64) * DEEP_PER_LEVEL
        cubic = resample(deep, width, height, BICUBIC)
        errors = [measure_error(result, truth) for result in (cubic, eight, enlarged.deep)]
        bands = count_longest_band(enlarged.pixels), count_longest_band(enlarged.deep)
        figures = [f"{error:.3f}" for error in errors] + [str(band) for band in bands]
        print(f"| {name} | {' | '.join(figures)} |")


def measure_psnr(result: Pixels, truth: Pixels) -> float:
    """Return the PSNR of BGR in dB, without 6 pixels of border."""
    difference = (result.astype(np.float64) - truth)[6:-6, 6:-6]
    return float(10 * np.log10(255**2 / (difference**2).mean()))


def measure_sizes(model: SuperResolution) -> None:
    """Print the PSNR of other scales."""
    print("\n| scale | bicubic | Lanczos | this service |\n|---|---|---|---|")
    for scale in (2, 3, 4):
        rows = []
        for name in PHOTOS:
            photo = np.ascontiguousarray(getattr(data, name)()[:, :, ::-1])
            height, width = (side // scale for side in photo.shape[:2])
            truth = photo[: height * scale, : width * scale]
            small = to_pixels(resample(truth, width, height, BICUBIC))
            plain = [
                to_pixels(resample(small, width * scale, height * scale, kind))
                for kind in (BICUBIC, LANCZOS)
            ]
            ours = model.enlarge(Picture(small), Options(scale=scale)).pixels
            rows.append([measure_psnr(each, truth) for each in (*plain, ours)])
        figures = [f"{value:.2f}" for value in np.mean(rows, axis=0)]
        print(f"| {scale} | {' | '.join(figures)} |")


def to_pixels(samples: Floats) -> Pixels:
    """Round samples to 8 bits."""
    return np.clip(np.rint(samples), 0, 255).astype(np.uint8)


def main() -> None:
    """Print the tables."""
    model = SuperResolution()
    measure_depth(model)
    measure_sizes(model)
    model.close()


if __name__ == "__main__":
    main()
