"""Which figure tells that a machine is not enough: each one while idle, busy and overloaded.

    python -m bench.scaling [--seconds 75]

New images of 0.1 megapixels, every fifth of them asynchronous, arrive evenly at shares of what the
service has just computed in a row. Figures are means over the second half of each load, as
Prometheus would scrape them from /metrics every 5 s.
"""

import argparse
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from statistics import fmean

import httpx
from prometheus_client.parser import text_string_to_metric_families

from bench.memory import make_photo
from testkit.service import Service, run_service

SHARES = (0.0, 0.5, 0.9, 1.5, 0.0)
MEGAPIXELS = 0.1
IN_A_ROW = 20
CLIENTS = 64
SCRAPE_SECONDS = 5


def read_metrics(service: Service) -> dict[str, float]:
    """Return the values of /metrics that a rule could use, by name."""
    values: dict[str, float] = {}
    for family in text_string_to_metric_families(httpx.get(f"{service.url}/metrics").text):
        for sample in family.samples:
            label = sample.labels.get("state", sample.labels.get("code", ""))
            values[sample.name + label] = sample.value
    return values


class Uploads:
    """Uploads new images."""

    def __init__(self, service: Service) -> None:
        limits = httpx.Limits(max_connections=CLIENTS)
        self._client = httpx.Client(base_url=service.url, timeout=600, limits=limits)
        self._pool = ThreadPoolExecutor(CLIENTS)
        self._number = 0

    def send(self) -> Future[int]:
        """Upload another image."""
        self._number += 1
        content = make_photo(MEGAPIXELS, 1) + self._number.to_bytes(8, "big")
        headers = {"Content-Type": "image/jpeg"}
        if self._number % 5 == 0:
            headers["Prefer"] = "respond-async"
        return self._pool.submit(self._post, content, headers)

    def _post(self, content: bytes, headers: dict[str, str]) -> int:
        return self._client.post("/api/enhance", content=content, headers=headers).status_code


def queue_seconds(values: dict[str, float]) -> float:
    """Return how long the work that is there takes, as deploy/alerts.yaml computes it."""
    pixels = values["sr_queue_pixels"] + values.get("sr_jobs_pixelsqueued", 0)
    return pixels * values["sr_seconds_per_pixel"]


def measure(service: Service, uploads: Uploads, rate: float, seconds: float) -> dict[str, float]:
    """Return the figures at a number of uploads per second."""
    started = time.monotonic()
    sent = 0
    scrapes = [(time.monotonic(), read_metrics(service))]
    while (passed := time.monotonic() - started) < seconds:
        while sent < rate * passed:
            uploads.send()
            sent += 1
        if time.monotonic() - scrapes[-1][0] >= SCRAPE_SECONDS:
            scrapes.append((time.monotonic(), read_metrics(service)))
        time.sleep(0.02)
    half = scrapes[len(scrapes) // 2 :]
    (first_time, first), (last_time, last) = half[0], half[-1]
    values = [each for _, each in half]
    used = last["process_cpu_seconds_total"] - first["process_cpu_seconds_total"]
    queues = [queue_seconds(each) for each in values]
    return {
        "CPU": used / (last_time - first_time) / last["sr_lanes"],
        "lanes busy": fmean(each["sr_lanes_busy"] / each["sr_lanes"] for each in values),
        "requests waiting": fmean(each["sr_waiting_requests"] for each in values),
        "queue, s": fmean(queues),
        "queue at the end, s": queues[-1],
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=75)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, run_service(Path(name)) as service:
        uploads = Uploads(service)
        started = time.monotonic()
        for future in [uploads.send() for _ in range(IN_A_ROW)]:
            future.result()
        capacity = IN_A_ROW / (time.monotonic() - started)
        print(f"{capacity:.2f} images a second in a row")
        for share in SHARES:
            while queue_seconds(read_metrics(service)):
                time.sleep(1)
            figures = measure(service, uploads, share * capacity, arguments.seconds)
            print(f"{share:4.0%}", *(f"{name} {value:.2f};" for name, value in figures.items()))


if __name__ == "__main__":
    main()
