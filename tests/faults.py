"""Injects faults into the real service, and checks what is left of it afterwards.

    make faults        (python -m tests.faults [--scale 1])

Each fault is injected twice; what the second time adds is a leak. Every accepted request has to be
answered: 200 with the right image, or a fitting problem; never 500, never half an image.
"""

import argparse
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from skimage import data

from superres.paths import EMBEDDED_MODEL_PATH
from superres.service.memory_estimate import NETWORK_BYTES
from testkit import loopback
from testkit.pictures import encode
from testkit.service import (
    GUNICORN,
    Service,
    cache_on_tmpfs,
    connect,
    run_service,
    wait_until_ready,
)

TIMEOUT_SECONDS = 600
SETTLE_SECONDS = 20
# Kernel, allocator and Python keep some of the memory they have used.
MEMORY_TOLERANCE_MB = 40
# Under libfaketime, Python 3.11's own sleep fails.
SERVE = """
import select, time
time.sleep = lambda seconds: select.select([], [], [], seconds)
from gunicorn.app.wsgiapp import run
run()
"""
DAY = 86400
# For 32 uploads at the limit: as many as the queue accepts are in memory at once, if there is room
# for them. Each has a copy of its result for the process that encodes it.
LARGEST_PICTURES = 4
MOST_LEFT_BY_KILLS = 8
RESULT_BYTES_PER_PIXEL = 27


@dataclass(frozen=True)
class State:
    """The resources that a worker process holds."""

    files: int
    threads: int
    temporary: int
    memory_mb: float

    @classmethod
    def of(cls, service: Service) -> "State":
        """Inspect a service's worker."""
        process = Path(f"/proc/{service.worker_pid}")
        pages = int((process / "statm").read_text().split()[1])
        cache = find_cache(service)
        left = [*cache.glob(".writing-*"), *(cache / "spool").glob("*"), *cache.glob("tmp*")]
        return cls(
            len(list((process / "fd").iterdir())),
            len(list((process / "task").iterdir())),
            len(left),
            pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
        )


def find_cache(service: Service) -> Path:
    """Return the service's cache folder as the service sees it, including mounts."""
    folder = (service.folder / "cache").relative_to("/")
    return Path(f"/proc/{service.worker_pid}/root") / folder


class Client:
    """Sends new images, and checks the responses."""

    def __init__(self, service: Service, seed: int) -> None:
        self.service = service
        self.answers: Counter[str] = Counter()
        self._random = np.random.default_rng(seed)
        self._lock = threading.Lock()

    def draw(self, width: int = 24, height: int = 16) -> bytes:
        """Return a new image."""
        with self._lock:
            corner = self._random.integers(0, 256, (2, 2, 3), np.uint8)
        return encode(Image.fromarray(corner).resize((width, height)), "PNG")

    def draw_flat(self, side: int) -> bytes:
        """Return a new image of identical tiles, so that only its size costs anything."""
        with self._lock:
            colour = tuple(int(level) for level in self._random.integers(0, 256, 3))
        return encode(Image.new("RGB", (side, side), colour), "PNG")

    def send(self, content: bytes, allowed: tuple[int, ...] = (), **options: object) -> int:
        """Upload an image, and check the response; return the status, 0 if there was none."""
        try:
            answer = loopback.post(
                f"{self.service.url}/api/enhance",
                files={"image": ("photo.png", content)},
                timeout=TIMEOUT_SECONDS,
                **options,  # type: ignore[arg-type]
            )
        except httpx.TransportError:
            self.count("no answer")
            assert 0 in allowed, "a request was not answered"
            return 0
        self.count(str(answer.status_code))
        if answer.status_code == 200:
            before, after = Image.open(BytesIO(content)), Image.open(BytesIO(answer.content))
            assert after.size == (3 * before.width, 3 * before.height)
            small = np.asarray(after.convert("RGB").resize(before.size, Image.Resampling.BOX))
            difference = np.abs(small.astype(int) - np.asarray(before.convert("RGB"))).mean()
            assert difference < 12, "another picture"
        else:
            assert answer.status_code in allowed, (answer.status_code, answer.text)
            kind = "application/json" if answer.status_code == 202 else "application/problem+json"
            assert answer.headers["Content-Type"] == kind
        return answer.status_code

    def count(self, answer: str) -> None:
        """Count a response."""
        with self._lock:
            self.answers[answer] += 1


Fault = Callable[[Client, float], None]
RunService = Callable[..., AbstractContextManager[Service]]


def full_disk(client: Client, scale: float) -> None:
    """The results' file system is full; images are still returned.

    Jobs are rejected once no result is left to evict for their uploads; those accepted before are
    done when there is space again.
    """
    filler = find_cache(client.service) / "filler"
    try:
        with filler.open("wb") as file:
            while True:
                file.write(b"x" * 65536)
                file.flush()
    except OSError:
        pass
    for _ in range(int(20 * scale) + 1):
        client.send(client.draw())
        client.send(client.draw(), (202, 503), headers={"Prefer": "respond-async"})
    filler.unlink()
    client.send(client.draw())


def removed_folder(client: Client, scale: float) -> None:
    """The cache folder is removed while images are computed."""
    with ThreadPoolExecutor(4) as pool:
        sent = [pool.submit(client.send, client.draw(90, 90)) for _ in range(int(20 * scale) + 4)]
        for _ in range(3):
            time.sleep(0.1)
            shutil.rmtree(client.service.folder / "cache", ignore_errors=True)
        for each in sent:
            each.result()


def damaged_results(client: Client, scale: float) -> None:
    """Stored results are damaged on the disk: detected, and computed again."""
    pictures = [client.draw() for _ in range(int(20 * scale) + 2)]
    for content in pictures:
        client.send(content)
    for number, path in enumerate((client.service.folder / "cache").glob("*.png")):
        stored = bytearray(path.read_bytes())
        # In the image, in the note after it, or truncated.
        place = (len(stored) // 3, -20, -1)[number % 3]
        stored[place] ^= 0x55
        path.write_bytes(stored[: -5 if number % 3 == 2 else None])
    for content in pictures:
        client.send(content)


def wait_for_job(url: str) -> None:
    """Wait until a job is done."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while (status := loopback.get(url).json())["state"] != "done":
        assert status["state"] in {"queued", "running"}, status
        assert time.monotonic() < deadline
        time.sleep(0.1)


def killed_worker(client: Client, scale: float) -> None:
    """The worker is killed at work: waiting clients are cut off, accepted jobs still finish."""
    url = client.service.url
    for _ in range(int(3 * scale) + 1):
        accepted = loopback.post(
            f"{url}/api/enhance",
            files={"image": ("a.png", client.draw(400, 400))},
            headers={"Prefer": "respond-async"},
        )
        assert accepted.status_code == 202
        with ThreadPoolExecutor(4) as pool:
            sent = [pool.submit(client.send, client.draw(300, 300), (0,)) for _ in range(4)]
            time.sleep(0.2)
            os.kill(client.service.worker_pid, signal.SIGKILL)
            for each in sent:
                each.result()
        wait_until_ready(client.service)
        wait_for_job(accepted.json()["status_url"])


def replaced_model(client: Client, scale: float) -> None:
    """The model file is replaced with garbage: the loaded model keeps working."""
    path = Path(client.service.folder) / "EDSR_x3.pb"
    content = path.read_bytes()
    path.write_bytes(b"rubbish")
    for _ in range(int(5 * scale) + 1):
        client.send(client.draw())
    path.write_bytes(content)


def bad_uploads(client: Client, scale: float) -> None:
    """Many bad uploads, mixed with good ones."""
    good = encode(Image.fromarray(data.astronaut()[:64, 200:264]), "PNG")
    with ThreadPoolExecutor(16) as pool:
        sent = []
        for number in range(int(500 * scale)):
            bad = bytearray(good)
            bad[50 + number % (len(bad) - 60)] ^= 0xFF
            cut = good[: number * len(good) // int(500 * scale)]
            content = (bytes(bad), cut or b"x", b"GIF89a" + cut)[number % 3]
            sent.append(pool.submit(client.send, content, (400, 413, 415, 422)))
            if number % 5 == 0:
                sent.append(pool.submit(client.send, client.draw()))
        for each in sent:
            each.result()


def resets(client: Client, scale: float) -> None:
    """Connections are reset in the middle of uploads and downloads."""
    content = client.draw(500, 500)
    client.send(content)
    name = next((client.service.folder / "cache").glob("*.png")).name
    for number in range(int(100 * scale) + 2):
        with connect(client.service, TIMEOUT_SECONDS) as connection:
            # With unread data and no lingering, close() resets the connection.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            if number % 2:
                head = "POST /api/enhance HTTP/1.1", "Host: x", "Content-Type: image/png"
                length = f"Content-Length: {len(content)}"
                connection.sendall("\r\n".join([*head, length, "", ""]).encode())
                connection.sendall(content[: len(content) // 2])
            else:
                connection.sendall(f"GET /cache/{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                connection.recv(1000)
    client.send(client.draw())


def pile_up(client: Client, scale: float) -> None:
    """Thousands of concurrent connections: silent, partial, idle; others are still served."""
    request = b"GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n"
    with ExitStack() as stack:
        for number in range(int(2000 * scale)):
            connection = stack.enter_context(connect(client.service, TIMEOUT_SECONDS))
            connection.sendall((b"", request[:20], request)[number % 3])
        for _ in range(5):
            client.send(client.draw())


def largest_uploads(client: Client, scale: float) -> None:
    """Concurrent uploads at the pixel limit: bounded memory, and a response for each."""
    client.send(client.draw(600, 400))  # tiles for all lanes: each keeps its network's memory
    idle_mb = State.of(client.service).memory_mb
    side = int(4000 * min(scale, 1))
    number = max(int(32 * scale), 8)
    with ThreadPoolExecutor(number) as pool:
        sent = [pool.submit(client.send, client.draw_flat(side), (503,)) for _ in range(number)]
        for each in sent:
            each.result()
    pixels = LARGEST_PICTURES * side * side
    pictures_mb = pixels * (NETWORK_BYTES + RESULT_BYTES_PER_PIXEL) / 1e6
    most_mb = idle_mb + pictures_mb + MEMORY_TOLERANCE_MB
    assert client.service.peak_memory_mb < most_mb, (client.service.peak_memory_mb, most_mb)


def jumping_clock(client: Client, scale: float) -> None:
    """The clock jumps a day ahead, and back."""
    offset = client.service.folder / "offset"
    for days in (1, -1, 0):
        offset.write_text(f"{days:+}d")
        for _ in range(int(5 * scale) + 1):
            content = client.draw()
            client.send(content)
            client.send(content)
            accepted = loopback.post(
                f"{client.service.url}/api/enhance",
                files={"image": ("a.png", client.draw())},
                headers={"Prefer": "respond-async"},
            )
            created = datetime.fromisoformat(accepted.json()["created"])
            ahead = (created - datetime.now(UTC)).total_seconds()
            assert abs(ahead - days * DAY) < DAY / 2, "the clock did not jump"
            wait_for_job(accepted.json()["status_url"])


def read_only(client: Client, scale: float) -> None:
    """The results' file system cannot be written."""
    for _ in range(int(20 * scale) + 1):
        client.send(client.draw())
        client.send(client.draw(), (503,), headers={"Prefer": "respond-async"})


FAULTS: tuple[Fault, ...] = (
    full_disk,
    read_only,
    removed_folder,
    damaged_results,
    killed_worker,
    replaced_model,
    bad_uploads,
    resets,
    pile_up,
    largest_uploads,
    jumping_clock,
)
MOUNT_OPTIONS = {full_disk: "size=2m", read_only: "ro"}
MOST_THREADS = 300


@contextmanager
def run_for(fault: Fault, folder: Path, run: RunService) -> Iterator[Service]:
    """Run a service for a fault."""
    command: tuple[str, ...] = GUNICORN
    settings: dict[str, object] = {}
    places = ExitStack()
    if fault in MOUNT_OPTIONS:
        command = places.enter_context(cache_on_tmpfs(folder, MOUNT_OPTIONS[fault]))
        settings["cache_min_free_mb"] = 0
    if fault is replaced_model:
        shutil.copy(EMBEDDED_MODEL_PATH, folder)
        settings["model_path"] = folder / EMBEDDED_MODEL_PATH.name
    if fault is jumping_clock:
        (folder / "offset").write_text("+0")
        (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
        fake = (f"LD_PRELOAD={library}", f"FAKETIME_TIMESTAMP_FILE={folder / 'offset'}")
        how = ("FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1")
        command = ("env", *fake, *how, sys.executable, "-c", SERVE, "app:app")
    if fault is largest_uploads:
        settings |= {"max_queue_pixels": 10**9, "max_sync_seconds": TIMEOUT_SECONDS}
    with places, run(folder, command, **settings) as service:
        yield service


def settle(service: Service) -> State:
    """Return the worker's state once it no longer changes."""
    deadline = time.monotonic() + SETTLE_SECONDS
    state = State.of(service)
    while True:
        time.sleep(1)
        now = State.of(service)
        if (now.files, now.temporary) == (state.files, state.temporary) and not now.temporary:
            return now
        if time.monotonic() > deadline:
            return now
        state = now


def try_fault(
    fault: Fault, folder: Path, scale: float, run: RunService = run_service
) -> tuple[Client, State, State]:
    """Inject a fault twice; return the client, and the state after each time."""
    folder.mkdir(parents=True, exist_ok=True)
    with run_for(fault, folder, run) as service:
        client = Client(service, seed=1)
        client.send(client.draw())
        fault(client, scale)
        first = settle(service)
        fault(client, scale)
        second = settle(service)
        client.send(client.draw())
        log = service.log
    assert "Traceback" not in log, log[-5000:]
    assert second.files <= first.files + 2, (first, second)
    assert second.threads <= MOST_THREADS, (first, second)
    # What a killed process was writing goes after an hour (test_crash_safety.py).
    assert second.temporary <= (MOST_LEFT_BY_KILLS if fault is killed_worker else 0), second
    assert second.memory_mb <= first.memory_mb + MEMORY_TOLERANCE_MB, (first, second)
    return client, first, second


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1)
    parser.add_argument("names", nargs="*", help="of the faults; all otherwise")
    arguments = parser.parse_args()
    print("| fault | answers | files | threads | temporary files | memory, MB | seconds |")
    print("|---|---|---|---|---|---|---|")
    for fault in FAULTS:
        if arguments.names and fault.__name__ not in arguments.names:
            continue
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            client, first, second = try_fault(fault, Path(folder), arguments.scale)
        answers = ", ".join(f"{number} {name}" for name, number in sorted(client.answers.items()))
        print(
            f"| {fault.__name__.replace('_', ' ')} | {answers} | {first.files}, {second.files} | "
            f"{first.threads}, {second.threads} | {second.temporary} | "
            f"{first.memory_mb:.0f}, {second.memory_mb:.0f} | {time.monotonic() - started:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
