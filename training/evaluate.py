r"""Measure models on images that were not used in training.

    python -m training.evaluate superres/models/EDSR_x3.pb OTHER.pb \
        --photos PHOTOS --index PHOTOS/index.csv

PSNR in dB, SSIM and GMSD on Y, without a border as wide as the scale, for each degradation,
compared with Pillow's bicubic upscaling. GMSD, the gradient magnitude similarity deviation (Xue et
al., IEEE TIP 2014), is the perceptual measure: 0 is the original, lower is better. It agrees with
viewers about blur, noise and blocks better than SSIM does, and needs no network: those measures
that do (LPIPS, DISTS) download its weights.

Without photographs, scikit-image's own images are used:

    python -m training.evaluate superres/models/EDSR_x3.pb superres/models/EDSR_x3_restore.pb
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from cv2.quality import QualityGMSD
from PIL import Image
from skimage import data, metrics

from superres.engines.opencv_engine import load_network
from superres.engines.openvino_engine import load_quantised
from training.degradations import BICUBIC, DAMAGED, MEASURED, Degradation
from training.network import SCALE, Floats
from training.prepare import crop_centre, read_splits

SIDE = 480
SCIKIT_IMAGE_PICTURES = (
    "astronaut",
    "camera",
    "chelsea",
    "coffee",
    "coins",
    "page",
    "rocket",
    "text",
)
Enlarge = Callable[[Image.Image], Image.Image]


def enlarge_bicubic(image: Image.Image) -> Image.Image:
    """Upscale with Pillow's bicubic filter."""
    return image.resize((image.width * SCALE, image.height * SCALE), BICUBIC)


def make_enlarger(model: Path) -> Enlarge:
    """Return a function that upscales with a .pb in OpenCV, or with an .xml in OpenVINO."""
    if model.suffix == ".xml":
        source = model.with_name(f"{model.stem.removesuffix('_int8')}.pb")
        network = load_quantised(source, model)
    else:
        network = load_network(model)

    def enlarge(image: Image.Image) -> Image.Image:
        bgr = np.ascontiguousarray(np.asarray(image)[:, :, ::-1])
        return Image.fromarray(np.ascontiguousarray(network(bgr)[:, :, ::-1]))

    return enlarge


def measure_luma(image: Image.Image) -> Floats:
    """Return Y without the border, (H, W) float32, from 16 to 235 (ITU-R BT.601)."""
    red, green, blue = np.asarray(image).astype(np.float32).transpose(2, 0, 1)
    luma = 16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255
    return np.asarray(luma[SCALE:-SCALE, SCALE:-SCALE], np.float32)


def read_pictures(photos: Path | None, index: Path | None) -> Iterator[Image.Image]:
    """Yield the images to measure on, with sides divisible by the scale."""
    if photos is not None:
        for path, split in read_splits(photos, index).items():
            if split == "val":
                yield crop_centre(Image.open(path).convert("RGB"), SIDE)
        return
    for name in SCIKIT_IMAGE_PICTURES:
        picture = Image.fromarray(getattr(data, name)()).convert("RGB")
        width, height = (min(side, SIDE) // SCALE * SCALE for side in picture.size)
        yield picture.crop((0, 0, width, height))


def measure(
    enlarge: Enlarge, degrade: Degradation, pictures: Sequence[Image.Image]
) -> tuple[float, float, float]:
    """Return the means of PSNR in dB, SSIM and GMSD of images that were degraded and upscaled."""
    pairs = [
        (measure_luma(picture), measure_luma(enlarge(degrade(picture)))) for picture in pictures
    ]
    return (
        float(np.mean([metrics.peak_signal_noise_ratio(*pair, data_range=255) for pair in pairs])),
        float(np.mean([metrics.structural_similarity(*pair, data_range=255) for pair in pairs])),
        float(np.mean([QualityGMSD.create(truth).compute(result)[0] for truth, result in pairs])),
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, nargs="*", help="EDSR x3 as .pb, or .xml")
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--index", type=Path)
    arguments = parser.parse_args()

    enlargers: dict[str, Enlarge] = {"bicubic": enlarge_bicubic}
    enlargers |= {str(model): make_enlarger(model) for model in arguments.models}
    pictures = list(read_pictures(arguments.photos, arguments.index))
    print(f"{len(pictures)} images; PSNR in dB, SSIM, GMSD")
    for degradations in (MEASURED, DAMAGED):
        print(f"{'':<32}" + "".join(f"{name:>21}" for name in [*degradations, "mean"]))
        for name, enlarge in enlargers.items():
            scores = [measure(enlarge, degrade, pictures) for degrade in degradations.values()]
            cells = [*scores, np.mean(scores, axis=0)]
            shown = "".join("{:>9.3f} {:.3f} {:.3f}".format(*cell) for cell in cells)
            print(f"{name[-31:]:<32}{shown}", flush=True)


if __name__ == "__main__":
    main()
