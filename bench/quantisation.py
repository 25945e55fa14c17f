"""How far the 8-bit model is from float32, and which tiles its guard rejects.

    python -m bench.quantisation [--photos PHOTOS] [--patterns 3000]

For each image: the two contrasts that the guard checks, and PSNR and the largest difference from
`cv2.dnn_superres` in levels, for the 8-bit model alone and with the guard. Then the largest
contrasts of photographs in four sizes, and the largest differences for small random patterns.
"""

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage import data

from superres.engines.opencv_engine import load_network
from superres.engines.openvino_engine import (
    is_extreme,
    load_guarded,
    load_quantised,
    measure_contrasts,
)
from superres.images.pixels import Pixels
from superres.paths import EMBEDDED_MODEL_PATH
from testkit.pictures import largest_difference
from training.drawings import draw_picture

SIDE = 192
DRAWINGS = 8
WIDTHS = (32, 10, 8, 12, 8, 12, 8)
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "camera", "grass", "text", "page")


def stretch(pattern: Pixels, contrast: float) -> Pixels:
    """Return a pattern of zeros and ones, (H, W) or (H, W, 3), around middle grey, BGR."""
    levels = np.rint(127.5 + (pattern * 255.0 - 127.5) * contrast).astype(np.uint8)
    return levels if levels.ndim == 3 else np.repeat(levels[:, :, np.newaxis], 3, axis=2)


def draw_pictures(photos: Path | None) -> Iterator[tuple[str, Pixels]]:
    """Yield images with their names, (H, W, 3) BGR: photographs, drawings, patterns."""
    for path in sorted(photos.glob("*.jpg")) if photos else []:
        reduced = Image.open(path).convert("RGB").reduce(3).crop((0, 0, SIDE, SIDE))
        yield path.stem, np.ascontiguousarray(np.asarray(reduced)[:, :, ::-1])
    for name in PHOTOGRAPHS:
        pixels = np.asarray(Image.fromarray(getattr(data, name)()).convert("RGB"))
        yield name, np.ascontiguousarray(pixels[:SIDE, 100 : 100 + SIDE, ::-1])
    grey = Image.fromarray(data.camera()).resize((SIDE, SIDE))
    yield "photograph dithered to 1 bit", stretch(np.asarray(grey.convert("1"), np.uint8), 1)
    small = Image.fromarray(data.coffee()).resize((SIDE, SIDE))
    colours = Image.new("P", (1, 1))
    colours.putpalette([255 * (index >> bit & 1) for index in range(8) for bit in range(3)])
    dithered = small.quantize(palette=colours).convert("RGB")
    yield "photograph dithered, 8 colours", np.ascontiguousarray(np.asarray(dithered)[:, :, ::-1])
    for ink, paper in (("black", "white"), ("red", "white"), ("yellow", "blue"), ("red", "lime")):
        text = Image.new("RGB", (SIDE, SIDE), paper)
        lines = "The quick brown fox jumps over 0123456789\n" * 20
        ImageDraw.Draw(text).text((3, 3), lines, ink, ImageFont.load_default(10))
        yield f"{ink} text on {paper}", np.ascontiguousarray(np.asarray(text)[:, :, ::-1])
    chequered = np.full((SIDE, SIDE, 3), (255, 0, 0), np.uint8)
    chequered[40:46:2, 40:46:2] = chequered[41:46:2, 41:46:2] = (0, 255, 255)
    yield "6x6 chequerboard, yellow, blue", chequered
    random = np.random.default_rng(0)
    for number in range(DRAWINGS):
        drawing = np.asarray(draw_picture(SIDE, random), np.uint8)
        yield f"drawing {number}", np.ascontiguousarray(drawing[:, :, ::-1])
    yield "uniform noise", random.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    row, column = np.indices((SIDE, SIDE), np.uint8)
    patterns = {
        "binary noise": random.integers(0, 2, (SIDE, SIDE)).astype(np.uint8),
        "binary noise in colour": random.integers(0, 2, (SIDE, SIDE, 3)).astype(np.uint8),
        "chequerboard of 1": (row + column) % 2,
        "chequerboard of 2": (row // 2 + column // 2) % 2,
        "stripes of 1": column % 2,
        "stripes of 2": column // 2 % 2,
    }
    for name, pattern in patterns.items():
        for contrast in (1, 0.75, 0.5):
            yield f"{name}, {contrast:.0%}", stretch(pattern, contrast)


def draw_small_pattern(random: np.random.Generator) -> Pixels:
    """Return a random pattern of two random colours on a third one, BGR."""
    side, top, left = (int(random.integers(low, high)) for low, high in ((2, 20), (0, 60), (0, 60)))
    row, column = np.indices((side, side))
    patterns = [
        (row + column) % 2,
        column % 2,
        (row % 2) * (column % 2),
        (row // 2 + column // 2) % 2,
        column // 2 % 2,
        random.integers(0, 2, (side, side)),
    ]
    colours = [
        random.integers(0, 2, (3, 3)) * 255,
        random.integers(0, 5, (3, 1)).repeat(3, axis=1) * 255 // 4,
        random.integers(0, 256, (3, 3)),
    ]
    paper, ink, other = np.asarray(colours[random.integers(len(colours))], np.uint8)
    picture = np.tile(paper, (SIDE // 2, SIDE // 2, 1))
    pattern = patterns[random.integers(len(patterns))][:, :, np.newaxis]
    picture[top : top + side, left : left + side] = np.where(pattern, ink, other)
    return picture


def measure_photographs(paths: Iterable[Path]) -> None:
    """Print the largest contrasts of photographs: whole, and reduced to 1/2, 1/3, 1/4."""
    contrasts = [
        measure_contrasts(np.asarray(photo.reduce(factor)))
        for photo in (Image.open(path).convert("RGB") for path in paths)
        for factor in (1, 2, 3, 4)
    ]
    if contrasts:
        print(f"{len(contrasts)} photographs: at most", np.max(contrasts, axis=0).round())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, help="folder of more photographs, as JPEG")
    parser.add_argument("--patterns", type=int, default=3000, help="how many small ones")
    arguments = parser.parse_args()

    exact = load_network(EMBEDDED_MODEL_PATH)
    networks = load_quantised(EMBEDDED_MODEL_PATH), load_guarded(EMBEDDED_MODEL_PATH)
    heads = ("", "contrast", "colour", "8 bits, dB", "levels", "guarded, dB", "levels")
    print("".join(f"{head:>{width}}" for head, width in zip(heads, WIDTHS, strict=True)))
    for name, picture in draw_pictures(arguments.photos):
        expected = exact(picture)
        contrast, colour_contrast = measure_contrasts(picture)
        line = f"{name[:31]:<32}{contrast:>10.0f}{colour_contrast:>8.0f}"
        for network in networks:
            computed = network(picture)
            levels = largest_difference(computed, expected)
            line += f"{cv2.PSNR(computed, expected):>12.1f}{levels:>8}"
        print(line)
    measure_photographs(arguments.photos.glob("*.jpg") if arguments.photos else [])
    random = np.random.default_rng(1)
    differences: dict[bool, list[int]] = {False: [], True: []}
    for _ in range(arguments.patterns):
        pattern = draw_small_pattern(random)
        levels = largest_difference(networks[0](pattern), exact(pattern))
        differences[is_extreme(pattern)].append(levels)
    for extreme, word in ((False, "let through"), (True, "left to OpenCV")):
        found = differences[extreme]
        print(f"small patterns {word}: {len(found)}, at most {max(found, default=0)} levels")


if __name__ == "__main__":
    main()
