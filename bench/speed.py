"""The speed of this service compared with the alternatives, in one run on one machine.

    python -m bench.speed [--runs 3] [--json speed.json] [--chart docs/speed.png]

Microseconds per input pixel, medians of interleaved runs, and the range; peak memory. `make
stock-model` downloads the stock model.
"""

import argparse
import hashlib
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from bench.contenders import make_pixels
from bench.machine_facts import count_network_flops, describe_machine, measure_matrix_gigaflops
from bench.memory import enhance, make_photo
from superres.engines.engine import Engine, Network
from superres.engines.opencv_engine import EMBEDDED_PROFILE
from superres.engines.upscaler import Upscaler
from superres.images.options import MODEL_SCALE
from superres.images.pixels import Pixels
from superres.paths import EMBEDDED_MODEL_PATH
from testkit.service import run_service

SIDES = (128, 256, 316, 512, 1000, 1414, 2000, 2828)  # to 8 megapixels
CONTENDER_SIDES = {
    "pillow": SIDES,
    "ours": (128, 256, 512, 1000),
    "stock": (128, 256, 512),
    "stock-tiled": (256,),
}
EXTRAPOLATED_SIDES = (1000, 2828)
TITLES = {
    "stock": "OpenCV's stock EDSR_x3, whole picture",
    "stock-tiled": "OpenCV's stock EDSR_x3, in this service's tiles",
    "ours": "our model, whole picture",
    "cold": "this service by HTTP, not in the cache",
    "openvino": "the same with OpenVINO",
    "hit": "this service by HTTP, hit",
    "pillow": "Pillow, bicubic",
}
STAGES_SIDE = 1000
# Names of each size's first and second request.
ENGINES = {"opencv": ("cold", "hit"), "openvino": ("openvino",)}

# (contender, side) -> one sample per run
Samples = dict[tuple[str, int], list[float]]


def run_contenders(seconds: Samples, peaks: Samples) -> None:
    """Measure each contender once at each of its sizes, each in its own process."""
    for name, sides in CONTENDER_SIDES.items():
        for side in sides:
            command = [sys.executable, "-m", "bench.contenders", name, str(side)]
            sample = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
            seconds.setdefault((name, side), []).append(sample["seconds"])
            peaks.setdefault((name, side), []).append(sample["peak_mb"])


def run_through_service(
    seconds: Samples, peaks: Samples, run: int, engine: str, names: Sequence[str]
) -> float:
    """Measure the service at each size, once per name: all but the first are cache hits.

    Returns
    -------
    seconds until it was ready
    """
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        with run_service(Path(folder), max_sync_seconds=3600, engine=engine) as service:
            ready_seconds = time.perf_counter() - started
            if "OpenVINO is not used" in service.log:
                sys.exit(service.log)
            with httpx.Client(base_url=service.url) as client:
                for side in SIDES:
                    photo = make_photo(side**2 / 1e6, run)
                    for name in names:
                        started = time.perf_counter()
                        enhance(client, photo)
                        took = time.perf_counter() - started
                        seconds.setdefault((name, side), []).append(took)
                        peaks.setdefault((name, side), []).append(service.peak_memory_mb)
    return ready_seconds


def answer_at_once(_: Path) -> Network:
    """Return a network that costs nothing, so that only cutting and stitching take time."""
    enlarged: dict[tuple[int, ...], Pixels] = {}

    def network(tile: Pixels) -> Pixels:
        if tile.shape not in enlarged:
            enlarged[tile.shape] = tile.repeat(MODEL_SCALE, axis=0).repeat(MODEL_SCALE, axis=1)
        return enlarged[tile.shape]

    return network


def measure_stages(runs: int, engine: str) -> dict[str, float]:
    """Return the median milliseconds of each stage of an image that is not in the cache."""
    samples: dict[str, list[float]] = {}
    stitcher = Upscaler(EMBEDDED_MODEL_PATH, Engine(answer_at_once, EMBEDDED_PROFILE))
    pixels = make_pixels(STAGES_SIDE)
    with (
        tempfile.TemporaryDirectory() as folder,
        run_service(Path(folder), engine=engine) as service,
        httpx.Client(base_url=service.url) as client,
    ):
        for run in range(runs):
            photo = make_photo(STAGES_SIDE**2 / 1e6, 100 + run)
            started = time.perf_counter()
            headers = {"Content-Type": "image/jpeg"}
            answer = client.post("/api/enhance", content=photo, headers=headers, timeout=600)
            total = 1000 * (time.perf_counter() - started)
            timing = re.findall(r"(\w+);dur=([\d.]+)", answer.headers["Server-Timing"])
            stages = {name: float(value) for name, value in timing}
            started = time.perf_counter()
            hashlib.sha256(photo).hexdigest()
            stages["hash"] = 1000 * (time.perf_counter() - started)
            started = time.perf_counter()
            stitcher.upscale(pixels)
            stages["stitch"] = 1000 * (time.perf_counter() - started)
            stages["HTTP and the rest"] = total - sum(
                value for name, value in stages.items() if name != "stitch"
            )
            stages["inference"] = stages.pop("upscale") - stages["stitch"]
            for name, value in stages.items():
                samples.setdefault(name, []).append(value)
    stitcher.close()
    return {name: statistics.median(values) for name, values in samples.items()}


def print_table(seconds: Samples, peaks: Samples) -> None:
    """Print one line per contender and size."""
    print("| | size | seconds | microseconds a pixel | range | peak memory, MB |")
    print("|---|---|---|---|---|---|")
    for name, title in TITLES.items():
        sides = [side for other, side in seconds if other == name]
        for side in sides:
            values = [value / side**2 * 1e6 for value in seconds[name, side]]
            print(
                f"| {title} | {side}x{side} | {statistics.median(seconds[name, side]):.4g} | "
                f"{statistics.median(values):.4g} | {min(values):.4g}-{max(values):.4g} | "
                f"{statistics.median(peaks[name, side]):.0f} |"
            )
    for side in EXTRAPOLATED_SIDES:
        per_pixel = tiled_stock_rate(seconds)
        print(
            f"| {TITLES['stock-tiled']} | {side}x{side} | {per_pixel * side**2:.4g} | "
            f"{1e6 * per_pixel:.4g} | extrapolated | |"
        )


def tiled_stock_rate(seconds: Samples) -> float:
    """Return the stock model's seconds per pixel in tiles."""
    (side,) = CONTENDER_SIDES["stock-tiled"]
    return statistics.median(seconds["stock-tiled", side]) / side**2


def print_stages(stages: dict[str, float], peak: float) -> None:
    """Print each stage's share, and the network's rate relative to the machine's peak."""
    total = sum(stages.values())
    print(f"{STAGES_SIDE}x{STAGES_SIDE} by stage, {total:.0f} ms:")
    for name, value in sorted(stages.items(), key=lambda item: -item[1]):
        print(f"  {name}: {value:.1f} ms, {100 * value / total:.1f} %")
    rate = count_network_flops() * STAGES_SIDE**2 / stages["inference"] / 1e6
    print(
        f"inference: {rate:.0f} billion operations per second for the image, halo not counted, "
        f"{100 * rate / peak:.0f} % of the float32 matrix product's"
    )


def draw_chart(seconds: Samples, path: Path) -> None:
    """Draw time against size, both logarithmic."""
    figure, axes = plt.subplots(figsize=(7.5, 5.2), layout="constrained")
    for name, title in TITLES.items():
        sides = [side for other, side in seconds if other == name]
        if len(sides) > 1:
            medians = [statistics.median(seconds[name, side]) for side in sides]
            axes.plot([side**2 / 1e6 for side in sides], medians, marker="o", label=title)
    sides = [CONTENDER_SIDES["stock-tiled"][0], *EXTRAPOLATED_SIDES]
    axes.plot(
        [side**2 / 1e6 for side in sides],
        [tiled_stock_rate(seconds) * side**2 for side in sides],
        linestyle="--",
        label="stock EDSR_x3 in tiles, extrapolated",
    )
    axes.set(xscale="log", yscale="log", xlabel="megapixels in", ylabel="seconds")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write all samples")
    parser.add_argument("--chart", type=Path, help="write a PNG")
    arguments = parser.parse_args()

    facts = describe_machine()
    peak = measure_matrix_gigaflops()
    for name, value in facts.items():
        print(f"{name}: {value}")
    print(f"float32 matrix product: {peak:.0f} GFLOP/s")
    seconds: Samples = {}
    peaks: Samples = {}
    ready: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    for run in range(arguments.runs):
        run_contenders(seconds, peaks)
        for engine, names in ENGINES.items():
            ready[engine].append(run_through_service(seconds, peaks, run, engine, names))
    print_table(seconds, peaks)

    stages = {}
    for engine in ENGINES:
        print(f"{engine}, ready after the start: {statistics.median(ready[engine]):.2f} s")
        stages[engine] = measure_stages(arguments.runs, engine)
        print_stages(stages[engine], peak)
    if arguments.json:
        samples = [
            {"name": name, "side": side, "seconds": values, "peak_mb": peaks[name, side]}
            for (name, side), values in seconds.items()
        ]
        record = {
            "machine": facts,
            "matrix_gigaflops": peak,
            "samples": samples,
            "ready_seconds": ready,
            "stages_ms": stages,
        }
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")
    if arguments.chart:
        draw_chart(seconds, arguments.chart)


if __name__ == "__main__":
    main()
