"""What a Dask cluster gains: one large image with the stock model, and tiles that only wait.

    python -m bench.dask [--side 384]

1. OpenCV's stock EDSR x3 (`make stock-model`) on an image that takes minutes: one lane, then two
   workers with one thread each.
2. How many tiles per second the scheduler dispatches if computing a tile is a pause of 50 ms: 8, 32
   and 128 threads.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from skimage import data

from super_resolution import SuperResolution
from superres.engines import dask_tiles
from superres.images.pixels import Pixels
from superres.paths import EMBEDDED_MODEL_PATH, PROJECT_DIR
from testkit.dask_cluster import DaskCluster, run_dask, wait_for_workers

STOCK_MODEL = PROJECT_DIR / "data" / "stock" / "EDSR_x3.pb"
PAUSE_SECONDS = 0.05
TILES = 2000


def pause(tile: Pixels, _model_sha256: str, _opencv: str) -> Pixels:
    """Stand in for the model; runs on a worker."""
    time.sleep(PAUSE_SECONDS)
    return np.zeros((3 * tile.shape[0], 3 * tile.shape[1], 3), np.uint8)


@contextmanager
def join(cluster: DaskCluster) -> Iterator[None]:
    """Use a cluster's certificates in this process."""
    import dask.config

    before = dict(os.environ)
    os.environ.update(cluster.environment)
    dask.config.refresh()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        dask.config.refresh()


def compare(side: int) -> None:
    """Print how long one lane and two workers take to upscale an image."""
    picture = np.ascontiguousarray(data.astronaut()[:side, :side, ::-1])
    alone = SuperResolution(STOCK_MODEL, lanes=1)
    started = time.perf_counter()
    expected = alone.upscale(picture)
    one = time.perf_counter() - started
    alone.close()
    del alone
    os.environ["SR_MODEL_PATH"] = str(STOCK_MODEL)
    with (
        tempfile.TemporaryDirectory() as name,
        run_dask(Path(name) / "dask") as cluster,
        join(cluster),
    ):
        model = dask_tiles.load_on_cluster(cluster.address, STOCK_MODEL)
        model.upscale(picture[:96, :160])  # until both have loaded the model
        started = time.perf_counter()
        enlarged = model.upscale(picture)
        two = time.perf_counter() - started
    assert np.array_equal(enlarged, expected)
    times = f"one lane {one:.1f} s, two workers {two:.1f} s, {one / two:.2f} times"
    print(f"{side}x{side}, stock model: {times}", flush=True)


def dispatch(threads: int) -> None:
    """Print how many tiles per second a number of threads gets."""
    with tempfile.TemporaryDirectory() as name, run_dask(Path(name) / "dask", 0) as cluster:
        for _ in range(2):
            cluster.start_worker(threads // 2)
        wait_for_workers(cluster, 2)
        with join(cluster):
            network = dask_tiles.Cluster(cluster.address, EMBEDDED_MODEL_PATH)
            setattr(dask_tiles, "compute_tile", pause)  # noqa: B010  # which mypy would reject
            tiles = np.random.default_rng(threads).integers(0, 256, (TILES, 128, 128, 3), np.uint8)
            with ThreadPoolExecutor(dask_tiles.TILES_A_THREAD * threads) as pool:
                list(pool.map(network, tiles[: 2 * threads]))
                started = time.perf_counter()
                list(pool.map(network, tiles[2 * threads :]))
                seconds = time.perf_counter() - started
            network.close()
    rate = (TILES - 2 * threads) / seconds
    print(f"| {threads} | {rate:.0f} | {100 * rate * PAUSE_SECONDS / threads:.0f} % |", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=384)
    compare(parser.parse_args().side)
    print("| threads | tiles a second | of what they could |\n|---|---|---|")
    for threads in (8, 32, 128):
        dispatch(threads)


if __name__ == "__main__":
    main()
