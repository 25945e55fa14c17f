"""Draw the README's image: a good and a bad input, upscaled in four ways.

    .venv-training/bin/python -m bench.before_after docs/before_after.png TEACHER

in the environment of superres/models/README.md, with scikit-image; TEACHER is Real-ESRGAN x4plus,
as for training.pairs. NASA's portrait of Eileen Collins (public domain), reduced to a third, and
scikit-image's cat (CC0), reduced and treated as a telephone does in the dark.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from skimage import data

from superres.paths import EMBEDDED_MODEL_PATH, RESTORE_MODEL_PATH
from training.degradations import DAMAGED, reduce
from training.evaluate import enlarge_bicubic, make_enlarger
from training.network import SCALE
from training.teacher import load_restore

SIDE = 180
# Left and top in the original images.
GOOD, BAD = (145, 0), (60, 30)
GAP = 4


def enlarge_as_teacher(small: Image.Image, stem: Path) -> Image.Image:
    """Upscale four times with the teacher, and reduce to three times."""
    (result,) = load_restore(stem, SIDE // SCALE, "cpu")([np.asarray(small)[:, :, ::-1]])
    pixels = cv2.resize(np.ascontiguousarray(result), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return Image.fromarray(pixels[:, :, ::-1].round().clip(0, 255).astype(np.uint8))


def main() -> None:
    """Command line."""
    enlargers = [
        enlarge_bicubic,
        lambda small: enlarge_as_teacher(small, Path(sys.argv[2])),
        make_enlarger(EMBEDDED_MODEL_PATH),
        make_enlarger(RESTORE_MODEL_PATH),
    ]
    sheet = Image.new("RGB", (4 * (SIDE + GAP) - GAP, 2 * (SIDE + GAP) - GAP), "white")
    pictures = [(data.astronaut(), GOOD, reduce), (data.chelsea(), BAD, DAMAGED["phone"])]
    for row, (picture, (left, top), degrade) in enumerate(pictures):
        small = degrade(Image.fromarray(picture).crop((left, top, left + SIDE, top + SIDE)))
        for column, enlarge in enumerate(enlargers):
            sheet.paste(enlarge(small), (column * (SIDE + GAP), row * (SIDE + GAP)))
    sheet.save(sys.argv[1], optimize=True)


if __name__ == "__main__":
    main()
