"""The basis for the choice of lanes, threads, tile and halo: time per kept pixel, and seams.

    python -m bench.tiles [MODEL] [--engine openvino] [--tiles 96,112,...] [--halos 6,8,10]

First the time of a tile on one CPU, on all CPUs with one single-threaded lane per CPU, and with one
lane whose threads share each tile. Then, for each halo, the largest difference between a tiled
image and the same image computed whole, over photographs and noise.
"""

import argparse
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from skimage import data

from superres.engines.engine import Network
from superres.engines.opencv_engine import EMBEDDED_PROFILE, load_network
from superres.engines.openvino_engine import load_quantised
from superres.engines.tiling import split_image
from superres.images.options import MODEL_SCALE
from superres.images.pixels import Pixels
from superres.paths import EMBEDDED_MODEL_PATH
from testkit.pictures import largest_difference

ROUNDS = 5
PIXELS_A_ROUND = 100_000
KEPT_HALO = 10


def time_tile(networks: list[Network], side: int) -> float:
    """Return the median microseconds per computed pixel with all lanes busy."""
    tile = np.ascontiguousarray(data.astronaut()[:side, 100 : 100 + side, ::-1])
    repeats = max(PIXELS_A_ROUND // side**2, 1)

    def work(network: Network) -> None:
        for _ in range(repeats):
            network(tile)

    rates = []
    with ThreadPoolExecutor(len(networks)) as pool:
        for _ in range(ROUNDS + 1):
            started = time.perf_counter()
            list(pool.map(work, networks))
            seconds = time.perf_counter() - started
            rates.append(seconds / (repeats * len(networks) * side**2) * 1e6)
    return statistics.median(rates[1:])  # the first one warms up


def load_pictures(side: int) -> dict[str, Pixels]:
    """Return photographs and noise, each at most `side` pixels wide and high, BGR."""
    pictures = {}
    for name in ("astronaut", "chelsea", "coffee", "rocket", "camera", "grass", "text", "coins"):
        pixels = getattr(data, name)()[:side, :side]
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[:, :, None], 3, axis=2)
        pictures[name] = np.ascontiguousarray(pixels[:, :, ::-1])
    random = np.random.default_rng(1)
    pictures["noise"] = random.integers(0, 256, (side, side, 3)).astype(np.uint8)
    binary = random.integers(0, 2, (side, side, 1)).astype(np.uint8) * 255
    pictures["binary noise"] = np.repeat(binary, 3, axis=2)
    return pictures


def largest_seam(network: Network, picture: Pixels, whole: Pixels, halo: int) -> int:
    """Return the largest difference between the tiled image and the whole one, in levels."""
    tiled = np.empty_like(whole)
    for tile in split_image(picture.shape[0], picture.shape[1], EMBEDDED_PROFILE.tile, halo):
        tile.place(network(tile.crop(picture)), tiled, MODEL_SCALE)
    return largest_difference(tiled, whole)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, nargs="?", default=EMBEDDED_MODEL_PATH)
    parser.add_argument("--engine", choices=["opencv", "openvino"], default="opencv")
    parser.add_argument("--tiles", default="64,96,112,128,144,160,192,224,256,320")
    parser.add_argument("--halos", default="4,6,8,10,12")
    parser.add_argument("--side", type=int, default=400, help="of the images for the seams")
    arguments = parser.parse_args()
    halos = [int(text) for text in arguments.halos.split(",")]

    cpus = os.sched_getaffinity(0)
    load = load_network if arguments.engine == "opencv" else load_quantised
    networks = [load(arguments.model) for _ in cpus]
    # (lanes, threads of each, CPUs)
    ways = {"1 CPU": (1, 1, {min(cpus)}), f"{len(cpus)} lanes": (len(cpus), 1, cpus)}
    if arguments.engine == "opencv" and len(cpus) > 1:
        ways[f"1 lane of {len(cpus)}"] = (1, len(cpus), cpus)
    print(f"microseconds per computed pixel (per pixel kept with a halo of {KEPT_HALO})")
    print(f"{'tile':<6}" + "".join(f"{way:>16}" for way in ways))
    for side in (int(text) for text in arguments.tiles.split(",")):
        line = f"{side:<6}"
        for lanes, threads, used in ways.values():
            os.sched_setaffinity(0, used)
            cv2.setNumThreads(threads)
            rate = time_tile(networks[:lanes], side)
            kept = rate * (side / (side - 2 * KEPT_HALO)) ** 2
            line += f"{rate:>8.2f} ({kept:5.2f})"
        print(line, flush=True)
    os.sched_setaffinity(0, cpus)
    cv2.setNumThreads(1)

    print("largest difference from the untiled result, in levels of 255")
    print(f"{'halo':<14}" + "".join(f"{halo:4}" for halo in halos))
    for name, picture in load_pictures(arguments.side).items():
        whole = networks[0](picture)
        seams = [largest_seam(networks[0], picture, whole, halo) for halo in halos]
        print(f"{name:<14}" + "".join(f"{seam:4}" for seam in seams))


if __name__ == "__main__":
    main()
