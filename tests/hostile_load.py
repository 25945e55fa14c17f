"""Hostile files against the real service, in the memory that the shipped unit allows.

    make hostile        (python -m tests.hostile_load [--names PART ...] [--at-once 6])

Each of `hostile.FILES` is sent in every output format, several at once, some as jobs, alongside
honest clients. The worker must not be killed; every hostile request gets an image or a problem,
and every honest one its image; memory and disk stay within their limits and are freed.
Prints the responses for each file, and how long honest clients waited without and with them.
"""

import argparse
import multiprocessing
import os
import select
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from multiprocessing.connection import Connection
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from skimage import data

from superres.sandbox.sandbox_helper import CHILDREN_READY
from testkit import loopback
from testkit.hostile import FILES, salt
from testkit.memory_cgroup import MemoryCgroup, make_memory_cgroup
from testkit.pictures import encode
from testkit.service import GUNICORN, Service, connect, run_service
from testkit.waiting import wait_until

MEGABYTE = 1024**2
LIMIT_BYTES = 2048 * MEGABYTE
CACHE_MAX_MB, SPOOL_MAX_MB = 64, 128
OUTPUTS: dict[str, dict[str, str]] = {
    "png": {},
    "webp": {"format": "webp"},
    "webp lossless": {"format": "webp", "lossless": "true"},
    "jpeg": {"format": "jpeg"},
    "avif": {"format": "avif"},
}
ASYNC = {"Prefer": "respond-async"}
TIMEOUT_SECONDS = 600
# A hostile client does not wait longer, and abandons its work.
HOSTILE_TIMEOUT_SECONDS = 60
POLL_SECONDS = 0.1
HONEST_ADDRESS = "127.0.0.2"
# Kernel, allocator and Python keep some of the memory they have used.
MEMORY_TOLERANCE = 1.2
# By how much the cache may exceed its limit until others are evicted.
CACHE_TOLERANCE = 1.1
NO_ANSWER = "left"
LARGE_MEGAPIXELS, SMALLER = 14, ((900, 900), (400, 300))
# How much a request may write to the log.
LOG_BYTES = 2000
PHOTO = np.asarray(Image.fromarray(data.astronaut()).resize((1000, 1000)))


def size_on_disk(folder: Path) -> int:
    """Return the size of a folder's files, even while they come and go."""
    total = 0
    for path in folder.glob("*"):
        try:
            total += path.stat().st_blocks * 512 if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def children_of(process: int) -> list[int]:
    """Return the process IDs of a process's children, of all threads."""
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return [int(word) for path in tasks for word in path.read_text().split()]


def resident_bytes(process: int) -> int:
    """Return the memory that a process is using."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Watch:
    """Samples a service's resources, and records the maxima.

    Attributes
    ----------
    memory_bytes, cache_bytes, spool_bytes : maxima
    """

    def __init__(self, service: Service, group: MemoryCgroup | None) -> None:
        self.service = service
        self.group = group
        self.worker = service.worker_pid
        self.memory_bytes = self.cache_bytes = self.spool_bytes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        cache = self.service.folder / "cache"
        while not self._over.wait(POLL_SECONDS):
            self.memory_bytes = max(self.memory_bytes, self.measure_memory())
            self.cache_bytes = max(self.cache_bytes, size_on_disk(cache))
            self.spool_bytes = max(self.spool_bytes, size_on_disk(cache / "spool"))

    def measure_memory(self) -> int:
        """Return the memory that the service holds: its cgroup, or else worker and helper."""
        if self.group is not None:
            return self.group.used_bytes
        try:
            return sum(map(resident_bytes, [self.worker, *children_of(self.worker)]))
        except (FileNotFoundError, ProcessLookupError):
            return 0

    @property
    def kills(self) -> int:
        """How many processes the OOM killer has killed, if known."""
        return self.group.kills if self.group is not None else 0


@dataclass
class Honest:
    """Clients that send small photographs, and check what they get.

    Attributes
    ----------
    seconds : how long responses took, by kind
    failures : wrong responses
    """

    url: str
    seed: int
    seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        limits = httpx.Limits(max_connections=100)
        # A different client from the attacker, whose uploads may fill its own share of the disk.
        transport = httpx.HTTPTransport(limits=limits, local_address=HONEST_ADDRESS)
        self._client = httpx.Client(base_url=self.url, timeout=TIMEOUT_SECONDS, transport=transport)
        self._random = np.random.default_rng(self.seed)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._known = self._draw()
        self._post(self._known, "png")

    def _draw(self, width: int = 96, height: int = 64) -> bytes:
        """Return a new photograph."""
        with self._lock:
            y, x = self._random.integers(0, np.subtract(PHOTO.shape[:2], (height, width)) + 1)
            shade = self._random.integers(0, 30, 3)
        crop = PHOTO[y : y + height, x : x + width] // 2 + shade.astype(np.uint8)
        return encode(Image.fromarray(crop), "PNG")

    def _post(self, content: bytes, output: str, **headers: str) -> httpx.Response:
        answer = self._client.post(
            "/api/enhance",
            params=OUTPUTS[output],
            content=content,
            headers={"Content-Type": "image/png", **headers},
        )
        assert answer.status_code in {200, 202}, (answer.status_code, answer.text)
        return answer

    def _check(self, before: bytes, after: bytes) -> None:
        small, large = Image.open(BytesIO(before)), Image.open(BytesIO(after))
        assert large.size == (3 * small.width, 3 * small.height)
        shrunk = np.asarray(large.convert("RGB").resize(small.size, Image.Resampling.BOX))
        difference = np.abs(shrunk.astype(int) - np.asarray(small)).mean()
        assert difference < 12, "another picture"

    def send_large(self, at_once: int) -> None:
        """Send photographs of some megabytes."""
        noise = self._random.integers(0, 256, (at_once, 700, 900, 3), np.uint8)
        with ThreadPoolExecutor(at_once) as pool:
            photos = [encode(Image.fromarray(each), "PNG") for each in noise]
            list(pool.map(lambda photo: self._post(photo, "jpeg"), photos))

    def new(self, output: str, width: int = 96, height: int = 64) -> None:
        """Wait for a result that has to be computed."""
        content = self._draw(width, height)
        self._check(content, self._post(content, output).content)

    def job(self, output: str, width: int = 96, height: int = 64) -> None:
        """Send a job, wait until it ends, fetch its result."""
        content = self._draw(width, height)
        url = self._post(content, output, **ASYNC).json()["status_url"]
        while True:
            status = self._client.get(url, headers={"Prefer": "wait=5"}).json()
            if status["state"] not in {"queued", "running"}:
                break
        assert status["state"] == "done", status
        if status["result"] is not None:  # hostile results may have evicted it
            answer = self._client.get(status["result"])
            if answer.status_code != 404:
                self._check(content, answer.content)

    def hit(self, _output: str) -> None:
        """Send an image whose result is, or was, stored."""
        self._check(self._known, self._post(self._known, "png").content)

    def health(self, _output: str) -> None:
        """Check the service's health."""
        assert self._client.get("/api/health").status_code == 200

    def _repeat(self, kind: str, pause: float, number: int) -> None:
        outputs = list(OUTPUTS)
        act = getattr(self, kind)
        while not self._over.is_set():
            number += 1
            started = time.perf_counter()
            try:
                act(outputs[number % len(outputs)])
            except Exception as error:  # whatever it is, the client was not served
                self.failures.append(f"{kind}: {error!r}"[:500])
            else:
                self.seconds[kind].append(time.perf_counter() - started)
            self._over.wait(pause)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def work(self, is_over: Connection) -> None:
        """Run clients of all kinds until something can be received."""
        kinds = [("new", 0.3), ("new", 0.3), ("job", 0.5), ("hit", 0.2), ("health", 0.05)]
        with ThreadPoolExecutor(len(kinds)) as pool:
            sent = [
                pool.submit(self._repeat, kind, pause, number)
                for number, (kind, pause) in enumerate(kinds)
            ]
            is_over.poll(None)
            self._over.set()
        for each in sent:
            each.result()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Run clients of all kinds until the block ends.

        They have their own process: in the attacker's, they would wait for its interpreter lock.
        """
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=work_apart, args=(self.url, self.seed, theirs))
        process.start()
        theirs.close()
        with ours:
            ours.recv()
            try:
                yield
            finally:
                ours.send("over")
                seconds, self.failures = ours.recv()
                self.seconds.update(seconds)
                process.join()


def work_apart(url: str, seed: int, parent: Connection) -> None:
    """Run honest clients while the parent process wants them; send what they found."""
    honest = Honest(url, seed)
    with closing(honest):
        parent.send("ready")
        honest.work(parent)
    parent.send((dict(honest.seconds), honest.failures))


class Attack:
    """Sends hostile files, and checks the responses.

    Attributes
    ----------
    number : number of requests so far
    faults : wrong responses
    tickets : of jobs that were accepted
    """

    def __init__(self, url: str, timeout_seconds: float = HOSTILE_TIMEOUT_SECONDS) -> None:
        limits = httpx.Limits(max_connections=100, max_keepalive_connections=0)
        self._client = httpx.Client(base_url=url, timeout=timeout_seconds, limits=limits)
        self.number = 0
        self._lock = threading.Lock()
        self.faults: list[str] = []
        self.tickets: list[str] = []

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def send(self, name: str, content: bytes, output: str, is_job: bool) -> str:
        """Send a file; return the response's status, and a problem's code."""
        with self._lock:
            self.number += 1
            number = self.number
        try:
            answer = self._client.post(
                "/api/enhance",
                params=OUTPUTS[output],
                content=salt(content, number),
                headers={"Content-Type": "application/octet-stream", **(ASYNC if is_job else {})},
            )
        except httpx.TimeoutException:
            return NO_ANSWER
        except httpx.TransportError as error:
            self.faults.append(f"{name} as {output}: {error!r}")
            return "no answer"
        kind = answer.headers.get("Content-Type", "")
        status = answer.status_code
        if status == 200 and kind.startswith("image/"):
            return "200"
        if status == 202:
            self.tickets.append(answer.json()["status_url"])
            return "202"
        is_problem = kind == "application/problem+json"
        if not (is_problem and (400 <= status < 500 or status == 503)):
            self.faults.append(f"{name} as {output}: {status} {answer.text[:200]}")
        return f"{status} {answer.json()['code']}" if is_problem else str(status)

    def send_all(self, name: str, content: bytes, output: str, at_once: int) -> Counter[str]:
        """Send a file several times at once, every third time as a job."""
        with ThreadPoolExecutor(at_once) as pool:
            sent = [
                pool.submit(self.send, name, content, output, number % 3 == 2)
                for number in range(at_once)
            ]
        return Counter(each.result() for each in sent)

    def end_jobs(self, seconds: float) -> Counter[str]:
        """Wait some time for jobs to end, and withdraw the others."""
        ends: Counter[str] = Counter()
        deadline = time.monotonic() + seconds
        for url in self.tickets:
            while (status := self._client.get(url).json())["state"] in {"queued", "running"}:
                if time.monotonic() > deadline:
                    break
                time.sleep(POLL_SECONDS)
            problem = status["problem"]
            ends[f"job {problem['code'] if problem else status['state']}"] += 1
            if problem and problem["status"] == 500:
                self.faults.append(f"{url}: {problem}")
            self._client.delete(url)
        self.tickets.clear()
        return ends


@contextmanager
def run_in_cgroup(folder: Path, **settings: object) -> Iterator[Watch]:
    """Run the service in the memory of the shipped unit, with small stores."""
    with make_memory_cgroup(LIMIT_BYTES) as group:
        if group is None:
            print("no memory cgroup can be made here: nothing limits the memory", file=sys.stderr)
            settings = {"max_decoded_bytes": LIMIT_BYTES * 3 // 4} | settings
        command = GUNICORN if group is None else group.wrap(GUNICORN)
        settings |= {"cache_max_mb": CACHE_MAX_MB, "spool_max_mb": SPOOL_MAX_MB}
        with run_service(folder, command, **settings) as service:  # type: ignore[arg-type]
            with Watch(service, group) as watch:
                yield watch
            check_bounds(watch)


def wait_until_idle(watch: Watch) -> None:
    """Wait until nothing is in progress, and the helper has only its idle child."""

    def is_idle() -> bool:
        statistics = loopback.get(f"{watch.service.url}/api/stats").json()
        return not (statistics["queue_length"] or statistics["waiting_requests"])

    def has_no_children() -> bool:
        helpers = children_of(watch.worker)
        return len(helpers) == 1 and len(children_of(helpers[0])) == CHILDREN_READY

    wait_until(is_idle, "images are still in progress")
    wait_until(has_no_children, "sandboxed processes are left")


def check_bounds(watch: Watch) -> None:
    """Assert that the worker was not restarted, and kept within its limits."""
    log = watch.service.log
    assert watch.service.worker_pid == watch.worker, log[-5000:]
    for word in ("Traceback", "Booting worker", "was sent"):
        assert log.count(word) == (word == "Booting worker"), (word, log[-5000:])
    assert watch.memory_bytes <= LIMIT_BYTES
    assert watch.cache_bytes <= CACHE_MAX_MB * MEGABYTE * CACHE_TOLERANCE, watch.cache_bytes
    assert watch.spool_bytes <= SPOOL_MAX_MB * MEGABYTE, watch.spool_bytes


def wait_for_memory(watch: Watch, limit_bytes: int) -> bool:
    """Wait until the service holds no more than this; tell whether it did."""
    with suppress(AssertionError):
        wait_until(lambda: watch.measure_memory() <= limit_bytes)
        return True
    return False


def attack(
    watch: Watch, names: Sequence[str], outputs: Sequence[str], at_once: int, show: bool = False
) -> Mapping[str, Counter[str]]:
    """Send files in every output format; return the responses by file.

    Raises
    ------
    AssertionError
        A response is wrong.
    """
    attacker = Attack(watch.service.url)
    log_bytes = len(watch.service.log)
    answers: dict[str, Counter[str]] = {}
    for name in names:
        content = FILES[name]()
        started, kills = time.monotonic(), watch.kills
        found: Counter[str] = Counter()
        for output in outputs:
            found += attacker.send_all(name, content, output, at_once)
        found += attacker.end_jobs(HOSTILE_TIMEOUT_SECONDS)
        answers[name] = found
        if show:
            shown = ", ".join(f"{number} {what}" for what, number in sorted(found.items()))
            seconds = time.monotonic() - started
            killed = watch.kills - kills
            memory = watch.memory_bytes // MEGABYTE
            print(f"| {name} | {shown} | {seconds:.0f} | {memory} | {killed} |", flush=True)
    attacker.close()
    assert not attacker.faults, attacker.faults
    # Honest requests and polls write there too, one line each.
    written = len(watch.service.log) - log_bytes
    lines = watch.service.log[log_bytes:].count(" /api/")
    assert written <= LOG_BYTES * (attacker.number + lines), written
    return answers


def draw_large(megapixels: float, seed: int) -> bytes:
    """Return a photograph whose tiles all differ."""
    side = int((megapixels * 1e6) ** 0.5)
    photo = np.asarray(Image.fromarray(data.astronaut()).resize((side, side)))
    noise = np.random.default_rng(seed).integers(0, 12, photo.shape, np.uint8)
    return encode(Image.fromarray(photo // 2 + noise), "JPEG", quality=80)


@contextmanager
def large_in_work(watch: Watch, megapixels: float, as_jobs: bool) -> Iterator[Callable[[], bool]]:
    """Keep two large images in progress until the block ends.

    Yields
    ------
    tells whether both still are in progress
    """
    url = watch.service.url
    # Takes more memory to encode than to compute, on any number of CPUs.
    target = "/api/enhance?format=jpeg"
    pictures = [draw_large(megapixels, seed) for seed in (1, 2)]
    with ExitStack() as stack:
        tickets, connections = [], []
        for content in pictures:
            if as_jobs:
                headers = {"Content-Type": "image/jpeg", **ASYNC}
                answer = loopback.post(f"{url}{target}", content=content, headers=headers)
                assert answer.status_code == 202, answer.text
                tickets.append(answer.json()["status_url"])
                stack.callback(loopback.delete, tickets[-1])
            else:
                connection = stack.enter_context(connect(watch.service, TIMEOUT_SECONDS))
                head = f"Host: x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(content)}"
                connection.sendall(f"POST {target} HTTP/1.1\r\n{head}\r\n\r\n".encode())
                connection.sendall(content)
                connections.append(connection)

        def are_open() -> bool:
            states = {loopback.get(ticket).json()["state"] for ticket in tickets}
            answered, _, _ = select.select(connections, [], [], 0)
            return states <= {"queued", "running"} and not answered

        def are_counted() -> bool:
            statistics = loopback.get(f"{url}/api/stats").json()
            return bool(statistics["queue_length"] == len(pictures) and statistics["decoded_bytes"])

        wait_until(are_counted, "the large images are not in progress")
        yield are_open


def check_order(
    watch: Watch, megapixels: float, sizes: Sequence[tuple[int, int]], as_jobs: bool
) -> dict[str, float]:
    """Assert that smaller images in each format, and a job of one pixel, overtake large ones.

    Returns
    -------
    how long they took, in seconds
    """
    honest = Honest(watch.service.url, seed=3)
    requests: dict[str, Callable[[], None]] = {
        f"{width}x{height} as {output}": partial(honest.new, output, width, height)
        for width, height in sizes
        for output in OUTPUTS
    }
    requests["job of 1x1"] = partial(honest.job, "png", 1, 1)
    seconds: dict[str, float] = {}

    def measure(name: str) -> None:
        started = time.monotonic()
        requests[name]()
        seconds[name] = time.monotonic() - started

    with closing(honest), large_in_work(watch, megapixels, as_jobs) as are_open:
        with ThreadPoolExecutor(len(requests)) as pool:
            list(pool.map(measure, requests))
        assert are_open(), "a large image overtook smaller ones"
    return seconds


def show_waiting(without: Honest, beside: Honest) -> None:
    """Print how long honest clients waited."""
    print("| honest, milliseconds | p50 without | with | p99 without | with | longest |")
    print("|---|---|---|---|---|---|")
    for kind in sorted(beside.seconds):
        cells = []
        for share in (50, 99):
            for load in (without, beside):
                cells.append(f"{1000 * np.percentile(load.seconds[kind], share):.0f}")
        longest = 1000 * max(beside.seconds[kind])
        number = len(beside.seconds[kind])
        print(f"| {kind} ({number}) | {' | '.join(cells)} | {longest:.0f} |", flush=True)


def show_order() -> None:
    """Print how long smaller images take alongside two large ones, synchronously and as jobs."""
    for as_jobs in (True, False):
        with (
            tempfile.TemporaryDirectory() as folder,
            run_in_cgroup(Path(folder), max_sync_seconds=TIMEOUT_SECONDS) as watch,
        ):
            seconds = check_order(watch, LARGE_MEGAPIXELS, SMALLER, as_jobs)
        how = "jobs" if as_jobs else "waited for"
        shown = ", ".join(f"{name} {took:.0f} s" for name, took in seconds.items())
        print(f"alongside two of {LARGE_MEGAPIXELS} megapixels, {how}: {shown}", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--at-once", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=30, help="of honest load alone")
    parser.add_argument("--names", nargs="+", help="parts of files' names; no others then")
    arguments = parser.parse_args()
    if not arguments.names:
        show_order()
    names = [name for name in FILES if any(part in name for part in arguments.names or [""])]
    with tempfile.TemporaryDirectory() as folder, run_in_cgroup(Path(folder)) as watch:
        without, beside = Honest(watch.service.url, 1), Honest(watch.service.url, 2)
        # Worker and lanes keep some of the memory that concurrent large images have taken.
        without.send_large(arguments.at_once)
        with without.at_work():
            time.sleep(arguments.seconds)
        wait_until_idle(watch)
        before = watch.measure_memory()
        print("| file | answers | seconds | most memory so far, MB | killed |")
        print("|---|---|---|---|---|")
        with beside.at_work():
            attack(watch, names, list(OUTPUTS), arguments.at_once, show=True)
        show_waiting(without, beside)
        wait_until_idle(watch)
        # The worker returns free memory every few seconds.
        is_back = wait_for_memory(watch, round(before * MEMORY_TOLERANCE))
        after = watch.measure_memory()
        print(
            f"memory before {before // MEGABYTE} MB, most {watch.memory_bytes // MEGABYTE}, after "
            f"{after // MEGABYTE}; cache at most {watch.cache_bytes // MEGABYTE} MB, spool "
            f"{watch.spool_bytes // MEGABYTE}; {watch.kills} processes killed by the kernel; "
            f"{watch.service.log.count(chr(10))} lines of log"
        )
        failures = [*without.failures, *beside.failures]
        assert not failures, failures
        assert is_back, (before, after)


if __name__ == "__main__":
    main()
