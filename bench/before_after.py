"""Draw the README's image: input, the browser's upscaling, OpenCV's stock model, this service.

    python -m bench.before_after docs/before_after.png

NASA's portrait of Eileen Collins (public domain, in scikit-image), reduced to a third. `make
stock-model` downloads the stock model.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from super_resolution import SuperResolution
from superres.images.image_codec import Picture
from superres.images.options import MODEL_SCALE
from superres.images.pixels import Pixels
from superres.paths import PROJECT_DIR

STOCK_MODEL = PROJECT_DIR / "data" / "stock" / "EDSR_x3.pb"
# Left, top, right, bottom in the input.
CROP = (50, 0, 110, 50)
GAP = 8


def enlarge(model_path: Path | None, pixels: Pixels) -> Image.Image:
    """Upscale (H, W, 3) BGR with a model; None for the embedded one."""
    model = SuperResolution(model_path) if model_path else SuperResolution()
    result = model.enlarge(Picture(pixels)).pixels
    model.close()
    return Image.fromarray(np.ascontiguousarray(result[:, :, ::-1]))


def main() -> None:
    """Command line."""
    photo = Image.fromarray(data.astronaut())
    small = photo.resize(
        (photo.width // MODEL_SCALE, photo.height // MODEL_SCALE), Image.Resampling.BICUBIC
    )
    small = small.crop(CROP)
    pixels = np.ascontiguousarray(np.asarray(small)[:, :, ::-1])
    size = (small.width * MODEL_SCALE, small.height * MODEL_SCALE)
    pictures = [
        small.resize(size, Image.Resampling.NEAREST),
        small.resize(size, Image.Resampling.BICUBIC),
        enlarge(STOCK_MODEL, pixels),
        enlarge(None, pixels),
    ]
    width, height = 2 * size[0], 2 * size[1]
    sheet = Image.new("RGB", (2 * width + GAP, 2 * height + GAP), "white")
    for index, picture in enumerate(pictures):
        place = (index % 2 * (width + GAP), index // 2 * (height + GAP))
        sheet.paste(picture.resize((width, height), Image.Resampling.NEAREST), place)
    sheet.save(sys.argv[1], optimize=True)


if __name__ == "__main__":
    main()
