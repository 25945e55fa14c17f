"""How true the time left of a job is while other programs take half of the CPUs.

    python -m bench.eta

A job of 8 megapixels, first on an idle machine, then beside one busy program for each CPU, of the
lanes' own priority. The estimate is compared with what was left indeed, at each moment.
"""

import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import httpx

from bench.memory import make_photo
from superres.engines.lanes import LANE_NICENESS
from testkit.service import run_service

MEGAPIXELS = 8
POLL_SECONDS = 0.5


def spin() -> None:
    """Take a CPU's time, as much of it as a lane gets."""
    os.nice(LANE_NICENESS)
    while True:
        pass


def watch_job(url: str, content: bytes) -> tuple[float, list[tuple[float, float]]]:
    """Upload an image.

    Returns
    -------
    How long the job took, and when it said that how much was left, in seconds.
    """
    headers = {"Content-Type": "application/octet-stream", "Prefer": "respond-async"}
    started = time.monotonic()
    address = httpx.post(f"{url}/api/enhance", content=content, headers=headers, timeout=600)
    said: list[tuple[float, float]] = []
    while True:
        job = httpx.get(address.headers["Location"], timeout=60).json()
        now = time.monotonic() - started
        if job["state"] == "done":
            return now, said
        said.append((now, job["eta_seconds"]))
        time.sleep(POLL_SECONDS)


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder, run_service(Path(folder)) as service:
        for number, busy in enumerate((0, len(os.sched_getaffinity(0)))):
            others = [multiprocessing.Process(target=spin, daemon=True) for _ in range(busy)]
            for other in others:
                other.start()
            took, said = watch_job(service.url, make_photo(MEGAPIXELS, number))
            for other in others:
                other.kill()
            print(f"{busy} busy programs: {MEGAPIXELS} megapixels took {took:.0f} s")
            for share in (0, 0.1, 0.25, 0.5, 0.75, 0.9):
                now, left = next(each for each in said if each[0] >= share * took)
                print(f"  after {now:4.0f} s: {left:4.0f} s left, indeed {took - now:4.0f}")
            # The last seconds are encoding; a share of nearly nothing says nothing.
            middle = [each for each in said if 0.1 <= each[0] / took <= 0.9]
            worst = max(abs(left / (took - now) - 1) for now, left in middle)
            print(f"  from a tenth to nine tenths: {100 * worst:.0f} % off at most")


if __name__ == "__main__":
    main()
