"""Throughput of one replica and of two, each pinned to its own core.

    python -m bench.replicas [--pictures 80] [--megapixels 0.1]

They share PostgreSQL and an S3 server behind Nginx, all on this machine: the CPU time that those
take is part of the figures.
"""

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.memory import make_photo
from tests.cluster import CLIENTS, Client, run_machines


def measure(cpus: list[int], pictures: list[bytes], is_asynchronous: bool) -> float:
    """Return how many images per second replicas make, one on each of some CPUs."""
    prefixes = [("taskset", "--cpu-list", str(cpu)) for cpu in cpus]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as a different user
        with (
            run_machines(folder, with_dask=False, prefixes=prefixes) as machines,
            machines.nginx.client() as connection,
            ThreadPoolExecutor(CLIENTS) as pool,
        ):
            client = Client(connection)
            started = time.perf_counter()
            list(pool.map(lambda each: client.enhance(each, is_asynchronous), pictures))
            return len(pictures) / (time.perf_counter() - started)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=80)
    parser.add_argument("--megapixels", type=float, default=0.1)
    arguments = parser.parse_args()
    numbers = iter(range(10**6))
    print("| pictures | 1 replica, a second | 2 replicas, a second | times |\n|---|---|---|---|")
    for is_asynchronous, kind in ((False, "waited for"), (True, "asynchronous")):
        speeds = [
            measure(
                cpus,
                # JPEG decoders ignore trailing bytes; the hash does not.
                [
                    make_photo(arguments.megapixels, number) + number.to_bytes(8, "big")
                    for number, _ in zip(numbers, range(arguments.pictures), strict=False)
                ],
                is_asynchronous,
            )
            for cpus in ([0], [0, 1])
        ]
        one, two = speeds
        print(f"| {kind} | {one:.2f} | {two:.2f} | {two / one:.2f} |", flush=True)


if __name__ == "__main__":
    main()
