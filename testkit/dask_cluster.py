"""Runs a Dask scheduler and workers on loopback, with TLS and their own certificates."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from superres.paths import PROJECT_DIR
from testkit.service import find_free_port
from testkit.waiting import START_SECONDS


@dataclass
class DaskCluster:
    """A running scheduler, and the workers that were started."""

    address: str
    folder: Path
    environment: dict[str, str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start one of Dask's commands."""
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *command],
                cwd=PROJECT_DIR,
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def start_worker(self, threads: int = 1) -> subprocess.Popen[bytes]:
        """Start a worker."""
        process = self.start(
            *("worker", self.address, f"--nthreads={threads}", "--nworkers=1", "--no-nanny"),
            *("--no-dashboard", f"--local-directory={self.folder}", "--death-timeout=60"),
        )
        self.workers.append(process)
        return process


def make_certificates(folder: Path) -> dict[str, str]:
    """Create an authority and a certificate signed by it; return Dask's settings for them."""
    subject = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    for command in (
        ["req", "-x509", *subject, "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.pem"],
        ["req", *subject, "-subj", "/CN=node", "-keyout", "node.key", "-out", "node.csr"],
        [
            *("x509", "-req", "-in", "node.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-days", "2", "-out", "node.pem"),
        ],
    ):
        subprocess.run(
            ["openssl", *command], cwd=folder, check=True, capture_output=True, timeout=30
        )
    prefix = "DASK_DISTRIBUTED__COMM__TLS__"
    settings = {f"{prefix}CA_FILE": str(folder / "ca.pem")}
    for role in ("CLIENT", "SCHEDULER", "WORKER"):
        settings[f"{prefix}{role}__CERT"] = str(folder / "node.pem")
        settings[f"{prefix}{role}__KEY"] = str(folder / "node.key")
    return settings | {"DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "true"}


@contextmanager
def run_dask(folder: Path, workers: int = 2) -> Iterator[DaskCluster]:
    """Run a scheduler and workers until the block ends."""
    folder.mkdir(parents=True)
    port = find_free_port()
    cluster = DaskCluster(f"tls://127.0.0.1:{port}", folder, make_certificates(folder))
    try:
        place = ("--host=127.0.0.1", f"--port={port}", "--protocol=tls")
        cluster.start("scheduler", *place, "--no-dashboard")
        for _ in range(workers):
            cluster.start_worker()
        wait_for_workers(cluster, workers)
        yield cluster
    finally:
        for process in reversed(cluster.processes):
            process.kill()
        for process in cluster.processes:
            process.wait()


def wait_for_workers(cluster: DaskCluster, number: int) -> None:
    """Wait until a number of workers have registered."""
    deadline = time.monotonic() + START_SECONDS
    log = cluster.folder / "log"
    while log.read_text().count("Registered to:") < number:
        if cluster.processes[0].poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(log.read_text()[-3000:])
        time.sleep(0.1)
