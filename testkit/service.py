"""Starts the real service with its own port and folder, and stops it again."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from superres.paths import PROJECT_DIR
from testkit import loopback
from testkit.fakes import write_small_model
from testkit.waiting import START_SECONDS

MOUNTS = Path("/proc/self/mountinfo")
GUNICORN = (sys.executable, "-m", "gunicorn", "app:app")
STOP_SECONDS = 30


@dataclass
class Service:
    """A running service; `restart` gives it a new process."""

    url: str
    launch: Callable[[], subprocess.Popen[bytes]]
    folder: Path
    answers_while_starting: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.process = self.launch()

    def kill(self) -> None:
        """Kill all its processes, as if its machine failed."""
        worker = self.worker_pid
        self.process.kill()
        os.kill(worker, signal.SIGKILL)
        self.process.wait()

    def restart(self) -> None:
        """Start it again in the same place, after it has ended; see `wait_until_ready`."""
        self.process = self.launch()

    @property
    def log(self) -> str:
        """Return what the service has printed."""
        return (self.folder / "log").read_text()

    @property
    def worker_pid(self) -> int:
        """Return the process ID of gunicorn's worker."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(children.read_text().split()[0])

    @property
    def peak_memory_mb(self) -> float:
        """Return the worker's `read_peak_memory_mb`."""
        return read_peak_memory_mb(self.worker_pid)


def read_peak_memory_mb(process: int | str) -> float:
    """Return the largest resident memory that a process ever had, in MB (10**6 bytes).

    `getrusage` would count the parent's memory before the program began.
    """
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise LookupError("VmHWM")


def connect(service: Service, timeout_seconds: float) -> socket.socket:
    """Open a connection to a service."""
    port = int(service.url.rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), timeout=timeout_seconds)


def unshare_mounts() -> tuple[str, ...]:
    """Return the prefix that gives a command its own mount namespace.

    Other users become root in a user namespace; root need not, and cannot inside a chroot, whose
    root may not be a mount point and so cannot be made private: there, mounts propagate outside.
    """
    become_root = () if os.getuid() == 0 else ("--map-root-user",)
    mount_points = [line.split()[4] for line in MOUNTS.read_text().splitlines()]
    propagation = "private" if "/" in mount_points else "unchanged"
    return ("unshare", "--mount", *become_root, "--propagation", propagation)


@contextmanager
def cache_on_tmpfs(folder: Path, mount_options: str) -> Iterator[tuple[str, ...]]:
    """Yield a command that serves with its own small file system as the cache folder."""
    cache = folder / "cache"
    cache.mkdir(parents=True)
    mount = f"mount -t tmpfs -o {mount_options} tmpfs {cache}"
    try:
        yield (*unshare_mounts(), "sh", "-c", f"{mount} && exec {' '.join(GUNICORN)}")
    finally:
        if os.path.ismount(cache):  # unchanged: it has propagated here
            subprocess.run(("umount", cache), check=True)


# What systemd does for a service with a socket (sd_listen_fds): it is file descriptor 3.
SOCKET_ACTIVATION = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""


def find_free_port() -> int:
    """Return a free port on loopback."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def service_environment(folder: Path, port: int, **settings: object) -> dict[str, str]:
    """Return the environment of a service that keeps its data below `folder`."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("SR_")}
    environment["SR_BIND"] = f"127.0.0.1:{port}"
    environment["SR_CACHE_DIR"] = str(folder / "cache")
    environment["SR_STATE_DIR"] = str(folder / "state")
    environment |= {f"SR_{name.upper()}": str(value) for name, value in settings.items()}
    return environment


@contextmanager
def run_service(
    folder: Path,
    command: Sequence[str] = GUNICORN,
    working_dir: Path = PROJECT_DIR,
    listener: socket.socket | None = None,
    **settings: object,
) -> Iterator[Service]:
    """Run the service until the block ends; the settings' names are without ``SR_``.

    With a `listener` it is started with that socket, as by systemd.
    """
    port = listener.getsockname()[1] if listener else find_free_port()
    descriptors = (listener.fileno(),) if listener else ()
    if listener:
        command = [sys.executable, "-c", SOCKET_ACTIVATION, str(listener.fileno()), *command]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("wb") as log:

        def launch() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                command,
                cwd=working_dir,
                env=service_environment(folder, port, **settings),
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=descriptors,
            )

        service = Service(f"http://127.0.0.1:{port}", launch, folder)
        try:
            wait_until_ready(service)
            yield service
        finally:
            service.process.terminate()
            try:
                service.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                service.process.kill()
                service.process.wait()


def run_light_service(
    folder: Path, command: Sequence[str] = GUNICORN, **settings: Any
) -> AbstractContextManager[Service]:
    """Run the service with a small model, for tests of what does not depend on the model."""
    folder.mkdir(parents=True, exist_ok=True)
    return run_service(folder, command, **{"model_path": write_small_model(folder)} | settings)


def wait_until_ready(service: Service) -> None:
    """Wait until the service reports that it is ready; raise if it stops or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if service.process.poll() is not None:
            break
        try:
            status = loopback.get(f"{service.url}/api/ready").status_code
            if status == 200:
                return
            service.answers_while_starting.append(status)
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"the service did not start:\n{service.log}")
