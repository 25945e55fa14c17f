"""Draw the README's picture: the browser's enlargement beside ours.

    python -m bench.before_after docs/before_after.png

NASA's portrait of Eileen Collins (public domain, in scikit-image), reduced to a third.
"""

import sys
from io import BytesIO

from PIL import Image
from skimage import data

from super_resolution import SCALE, SuperResolution

CROP = (150, 0, 330, 150)


def main() -> None:
    """Command line."""
    photo = Image.fromarray(data.astronaut())
    small = photo.resize((photo.width // SCALE, photo.height // SCALE), Image.Resampling.BICUBIC)
    file = BytesIO()
    small.save(file, "PNG")
    ours = SuperResolution().enhance(file.getvalue())
    bicubic = small.resize(ours.size, Image.Resampling.BICUBIC)

    width, height = CROP[2] - CROP[0], CROP[3] - CROP[1]
    sheet = Image.new("RGB", (4 * width + 8, 2 * height), "white")
    for left, picture in ((0, bicubic), (2 * width + 8, ours)):
        crop = picture.crop(CROP).resize((2 * width, 2 * height), Image.Resampling.NEAREST)
        sheet.paste(crop, (left, 0))
    sheet.save(sys.argv[1], optimize=True)


if __name__ == "__main__":
    main()
