"""Half an hour of mixed load at 80 % of the lanes' capacity, monitored with Prometheus.

    make soak        (python -m bench.soak [--minutes 30] [--share 0.8] [--chart docs/soak.png])

New images of several sizes, cache hits, stored results, asynchronous jobs and bad uploads arrive at
random times. Prints times by kind, and memory. The chart shows the panels of
deploy/grafana-dashboard.json, with the same queries.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import yaml

from bench.memory import make_photo
from superres.paths import PROJECT_DIR
from testkit.service import Service, find_free_port, run_service

DASHBOARD = PROJECT_DIR / "deploy" / "grafana-dashboard.json"
SCRAPE_SECONDS = 5
RATE_INTERVAL = "1m"
# (megapixels, weight): thumbnails, photos of pages, a poster now and then.
SIZES = ((0.02, 60), (0.1, 30), (0.4, 9), (2.0, 1))
# Requests per new image.
HITS, FETCHES, BAD = 5, 5, 0.5
ASYNCHRONOUS_SHARE = 0.2
CLIENTS = 64
POLL_SECONDS = 0.5


class Load:
    """Sends requests and records how long they took."""

    def __init__(self, url: str) -> None:
        limits = httpx.Limits(max_connections=CLIENTS)
        self._client = httpx.Client(base_url=url, timeout=600, limits=limits)
        self._lock = threading.Lock()
        self._known: list[tuple[bytes, str]] = []
        self._number = 0
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)
        self.failures: list[str] = []

    def run(
        self, kind: str, megapixels: float = 0, choice: float = 0, due: float | None = None
    ) -> None:
        """Send one request of a kind; its time counts from when it was due."""
        started = time.perf_counter() if due is None else due
        try:
            getattr(self, kind)(megapixels, choice)
        except Exception as error:  # recorded, whatever it is
            with self._lock:
                self.failures.append(f"{kind}: {error!r}"[:200])
            return
        name = f"{kind} {megapixels} megapixels" if megapixels else kind
        with self._lock:
            self.seconds[name].append(time.perf_counter() - started)

    def post(self, content: bytes, prefer: str = "") -> httpx.Response:
        """Upload."""
        headers = {"Content-Type": "image/jpeg", "Prefer": prefer}
        return self._client.post("/api/enhance", content=content, headers=headers)

    def draw(self, megapixels: float) -> bytes:
        """Return a new image."""
        with self._lock:
            self._number += 1
            number = self._number
        # JPEG decoders ignore trailing bytes; the hash does not.
        return make_photo(megapixels, number) + number.to_bytes(8, "big")

    def new(self, megapixels: float, _choice: float) -> None:
        """Upload a new image and wait for it."""
        content = self.draw(megapixels)
        answer = self.post(content)
        answer.raise_for_status()
        with self._lock:
            self._known.append((content, answer.links["canonical"]["url"]))
            del self._known[:-200]

    def job(self, megapixels: float, _choice: float) -> None:
        """Upload a new image and poll until it is done."""
        answer = self.post(self.draw(megapixels), "respond-async")
        answer.raise_for_status()
        status = answer.json()
        while answer.status_code == 202 or status["state"] in {"queued", "running"}:
            time.sleep(POLL_SECONDS)  # a service with too many long polls responds immediately
            answer = self._client.get(status["status_url"], headers={"Prefer": "wait=20"})
            status = answer.raise_for_status().json()
        if status["state"] != "done":
            raise RuntimeError(status["state"])

    def hit(self, _megapixels: float, choice: float) -> None:
        """Upload an image again."""
        if self._known:
            self.post(self._known[int(choice * len(self._known))][0]).raise_for_status()

    def fetch(self, _megapixels: float, choice: float) -> None:
        """Fetch a stored result."""
        if self._known:
            self._client.get(self._known[int(choice * len(self._known))][1]).raise_for_status()

    def bad(self, _megapixels: float, choice: float) -> None:
        """Upload half an image."""
        if self._known:
            content = self._known[int(choice * len(self._known))][0]
            status = self.post(content[: len(content) // 2]).status_code
            if status != 422:
                raise RuntimeError(str(status))


def plan(minutes: float, pixels_a_second: float) -> Iterator[tuple[float, str, float, float]]:
    """Yield (when, kind, megapixels, a random number), in order of time."""
    random = np.random.default_rng(1)
    sizes, weights = (np.array(each) for each in zip(*SIZES, strict=True))
    weights = weights / weights.sum()
    new_a_second = pixels_a_second / (1e6 * (sizes * weights).sum())
    events = []
    for kind, rate in (("new", 1), ("hit", HITS), ("fetch", FETCHES), ("bad", BAD)):
        moment = 0.0
        while (moment := moment + random.exponential(1 / (rate * new_a_second))) < 60 * minutes:
            size = float(random.choice(sizes, p=weights)) if kind == "new" else 0.0
            is_job = kind == "new" and random.random() < ASYNCHRONOUS_SHARE
            events.append((moment, "job" if is_job else kind, size, float(random.random())))
    yield from sorted(events)


@contextmanager
def run_prometheus(service: Service, folder: Path) -> Iterator[str]:
    """Run Prometheus, scraping a service, until the block ends; yield its URL."""
    address = f"127.0.0.1:{find_free_port()}"
    target = {"job_name": "super-resolution"}
    jobs = [{**target, "static_configs": [{"targets": [service.url.removeprefix("http://")]}]}]
    every = {"global": {"scrape_interval": f"{SCRAPE_SECONDS}s"}}
    (folder / "prometheus.yaml").write_text(yaml.safe_dump({**every, "scrape_configs": jobs}))
    command = ["prometheus", f"--config.file={folder / 'prometheus.yaml'}"]
    command += [f"--storage.tsdb.path={folder / 'prometheus'}", f"--web.listen-address={address}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield f"http://{address}"
        finally:
            process.terminate()
            process.wait(30)


def ask(prometheus: str, query: str, began: float, ended: float, step: float) -> Any:
    """Return the series for a query."""
    parameters = {"query": query, "start": str(began), "end": str(ended), "step": str(step)}
    answer = httpx.get(f"{prometheus}/api/v1/query_range", params=parameters).raise_for_status()
    return answer.json()["data"]["result"]


def draw_panels(prometheus: str, began: float, ended: float, path: Path) -> None:
    """Draw the dashboard's panels."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    figure, grid = plt.subplots(-(-len(panels) // 3), 3, figsize=(15, 12), layout="constrained")
    for panel, axes in zip(panels, np.ravel(grid), strict=False):
        axes.set_title(panel["title"], fontsize=10)
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", RATE_INTERVAL)
            for series in ask(prometheus, query, began, ended, SCRAPE_SECONDS):
                label = target["legendFormat"]
                for name, value in series["metric"].items():
                    label = label.replace(f"{{{{{name}}}}}", value)
                when, values = np.array(series["values"], float).T
                axes.plot((when - began) / 60, values, linewidth=1, label=label)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6)
    figure.supxlabel("minutes")
    figure.savefig(path, dpi=80)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--share", type=float, default=0.8, help="of the lanes' capacity")
    parser.add_argument("--engine", default="opencv")
    parser.add_argument("--chart", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            run_service(folder, engine=arguments.engine, cache_max_mb=512) as service,
            run_prometheus(service, folder) as prometheus,
        ):
            load = Load(service.url)
            for _ in range(5):
                load.run("new", 0.4)
            metrics = httpx.get(f"{service.url}/metrics").text
            (line,) = (each for each in metrics.splitlines() if each.startswith("sr_seconds_per"))
            capacity = 1 / float(line.split()[1])
            load.seconds.clear()
            print(f"capacity: {capacity / 1e3:.0f} kilopixels a second", flush=True)
            began, started = time.time(), time.perf_counter()
            with ThreadPoolExecutor(CLIENTS) as pool:
                coming = plan(arguments.minutes, arguments.share * capacity)
                for moment, kind, megapixels, choice in coming:
                    time.sleep(max(0, started + moment - time.perf_counter()))
                    pool.submit(load.run, kind, megapixels, choice, started + moment)
            print(f"{time.perf_counter() - started:.0f} s")
            print("| | requests | p50, s | p99, s |\n|---|---|---|---|")
            for kind, values in sorted(load.seconds.items()):
                p50, p99 = np.percentile(values, [50, 99])
                print(f"| {kind} | {len(values)} | {p50:.3f} | {p99:.3f} |")
            print(f"failures: {len(load.failures)} {load.failures[:5]}")
            query = 'process_resident_memory_bytes{job="super-resolution"} / 1e6'
            (series,) = ask(prometheus, query, began, time.time(), 60)
            memory = [f"{float(value):.0f}" for _, value in series["values"]]
            print("memory each minute, MB:", *memory)
            if arguments.chart:
                draw_panels(prometheus, began, time.time(), arguments.chart)
            if load.failures:
                sys.exit(1)


if __name__ == "__main__":
    main()
