"""Outages of the database, the store and the machines themselves, while they work.

    make cluster        (python -m tests.outages [--pictures 30] [NAME ...])

Two replicas behind the shipped Nginx, PostgreSQL, an S3 server behind a faulty proxy. During each
outage images are uploaded, half of them as jobs. None may be lost, each result must equal that of
a single machine, and waiting clients must get it. A short version is part of the tests.
"""

import argparse
import os
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import psycopg
from PIL import Image
from skimage import data

from testkit.pictures import encode
from testkit.postgres import BIN, run_tool
from testkit.service import run_light_service, wait_until_ready
from tests.cluster import CLIENTS, FIRST_USER, Client, Machines, run_machines, wait_for_share

SIDE = 220
# Responses that an upload may get: retry in a moment; but not that it was interrupted.
HONEST = frozenset({"jobs_unavailable", "store_unavailable", "not_stored"})

Stage = Callable[[Machines, Path], Iterator[None]]


def draw(number: int) -> bytes:
    """Return an image that is unique to a number, and takes some tenths of a second."""
    left, top = 7 * (number % 40), 11 * (number // 40)
    photo = Image.fromarray(data.astronaut()).crop((left, top, left + SIDE, top + SIDE))
    return encode(photo, "PNG")


# --- outages


def spoil_store(fault: str, machines: Machines, _folder: Path) -> Iterator[None]:
    """Inject a fault into the proxy in front of the store."""
    assert machines.store is not None
    with machines.store.spoil(fault):
        yield


def control(folder: Path, *command: str) -> None:
    """Run pg_ctl on the server."""
    run_tool(f"{BIN}/pg_ctl", "-D", str(folder / "postgres" / "data"), "-w", *command)


def start_database(folder: Path, machines: Machines, options: str = "") -> None:
    """Start the server as it was first started."""
    port = httpx.URL(machines.database_url).port
    server = folder / "postgres"
    common = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={server}"
    control(folder, "-l", str(server / "log"), "-o", f"{common} {options}", "start")


def stop_database(machines: Machines, folder: Path) -> Iterator[None]:
    """Stop the server, and start it again."""
    control(folder, "-m", "immediate", "stop")
    yield
    start_database(folder, machines)


def make_database_read_only(machines: Machines, folder: Path) -> Iterator[None]:
    """Restart the server in read-only mode, as in a failover, and back."""
    control(folder, "-m", "fast", "stop")
    start_database(folder, machines, "-c default_transaction_read_only=on")
    yield
    control(folder, "-m", "fast", "stop")
    start_database(folder, machines)


def freeze_database(_machines: Machines, folder: Path) -> Iterator[None]:
    """Freeze all processes of the server."""
    first = int((folder / "postgres" / "data" / "postmaster.pid").read_text().split()[0])

    def tell_all(number: signal.Signals) -> None:
        found = subprocess.run(("ps", "-o", "pid=", "--ppid", str(first)), capture_output=True)
        for process in (first, *map(int, found.stdout.split())):
            os.kill(process, number)

    tell_all(signal.SIGSTOP)
    try:
        yield
    finally:
        tell_all(signal.SIGCONT)


def lock_table(machines: Machines, _folder: Path) -> Iterator[None]:
    """Lock the jobs table in another session."""
    with psycopg.connect(machines.database_url) as connection:
        connection.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
        yield


def cut_one_replica_off(machines: Machines, _folder: Path) -> Iterator[None]:
    """Cut only the first replica off from the database."""
    with psycopg.connect(machines.database_url, autocommit=True) as connection:
        connection.execute(f"ALTER ROLE {FIRST_USER} NOLOGIN")
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s",
            [FIRST_USER],
        )
        yield
        connection.execute(f"ALTER ROLE {FIRST_USER} LOGIN")


def kill_replicas(machines: Machines, _folder: Path) -> Iterator[None]:
    """Kill both replicas at once, and start both at once, as after a power cut."""
    for replica in machines.replicas:
        replica.kill()
    yield
    for replica in machines.replicas:
        replica.restart()
    for replica in machines.replicas:
        wait_until_ready(replica)


def reload_replicas(machines: Machines, _folder: Path) -> Iterator[None]:
    """Restart both replicas' workers at once."""
    for replica in machines.replicas:
        replica.process.send_signal(signal.SIGHUP)
    yield


def freeze_one_replica(machines: Machines, _folder: Path) -> Iterator[None]:
    """Freeze the first replica's processes, as in a live migration of its machine."""
    replica = machines.replicas[0]
    processes = (replica.process.pid, replica.worker_pid)
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


def restart_in_turn(machines: Machines, _folder: Path) -> Iterator[None]:
    """Restart the replicas one after the other, as in a rolling upgrade."""
    for replica in machines.replicas:
        replica.process.terminate()
        replica.process.wait()
        replica.restart()
        wait_until_ready(replica)
    yield


@dataclass(frozen=True)
class Outage:
    """Something that goes wrong for a number of seconds.

    Attributes
    ----------
    honest : what clients may be told
    """

    seconds: float
    stage: Stage
    honest: frozenset[str] = HONEST


OUTAGES = {
    "database stopped": Outage(8, stop_database),
    "database read-only": Outage(14, make_database_read_only),
    "database frozen": Outage(16, freeze_database),
    "table locked": Outage(16, lock_table),
    "one replica without database": Outage(16, cut_one_replica_off),
    "store unreachable": Outage(8, partial(spoil_store, "cut off")),
    "store frozen": Outage(16, partial(spoil_store, "frozen")),
    "404 NoSuchBucket": Outage(8, partial(spoil_store, "no bucket")),
    "400 ExpiredToken": Outage(8, partial(spoil_store, "expired")),
    "403 AccessDenied": Outage(8, partial(spoil_store, "forbidden")),
    "truncated reads": Outage(8, partial(spoil_store, "truncated")),
    "corrupted reads": Outage(8, partial(spoil_store, "corrupted")),
    "corrupted writes": Outage(8, partial(spoil_store, "corrupted writes")),
    "503 SlowDown": Outage(8, partial(spoil_store, "slow down")),
    "trickling reads": Outage(40, partial(spoil_store, "trickling")),
    "one replica frozen": Outage(16, freeze_one_replica),
    "both restarted in turn": Outage(0, restart_in_turn),
    "both reloaded": Outage(1, reload_replicas),
    "both killed": Outage(1, kill_replicas, frozenset({"unavailable"})),
}


# --- reports


@dataclass
class Report:
    """How one outage went."""

    answers: Counter[int]
    problems: Counter[str]
    seconds: float


def try_outage(
    outage: Outage, machines: Machines, folder: Path, pictures: Sequence[bytes]
) -> tuple[Report, list[bytes]]:
    """Upload images during an outage; return the responses, and the results."""
    staged = contextmanager(outage.stage)
    started = time.monotonic()
    with machines.nginx.client() as connection, ThreadPoolExecutor(CLIENTS) as pool:
        client = Client(connection)
        sent = [
            pool.submit(client.enhance, picture, index % 2 == 0)
            for index, picture in enumerate(pictures)
        ]
        wait_for_share(sent, 0.1)
        with staged(machines, folder):
            time.sleep(outage.seconds)
        results = [each.result() for each in sent]
    return Report(client.answers, client.problems, time.monotonic() - started), results


def try_outages(folder: Path, number: int, names: Sequence[str]) -> dict[str, Report]:
    """Try outages one after the other.

    Raises
    ------
    AssertionError
        A job was lost, a result is wrong, or a waiting client was told to start over.
    """
    reports: dict[str, Report] = {}
    uploaded: list[bytes] = []
    results: list[bytes] = []
    with run_machines(folder, with_dask=False, for_outages=True) as machines:
        for name in names:
            pictures = [draw(len(uploaded) + each) for each in range(number)]
            reports[name], made = try_outage(OUTAGES[name], machines, folder, pictures)
            uploaded += pictures
            results += made
            print(describe(name, OUTAGES[name], reports[name]), flush=True)
    with (
        run_light_service(folder / "alone") as service,
        httpx.Client(base_url=service.url) as connection,
    ):
        alone = Client(connection)
        assert [alone.enhance(picture, False) for picture in uploaded] == results
    for name, report in reports.items():
        assert report.problems.keys() <= OUTAGES[name].honest, (name, report)
    return reports


def describe(name: str, outage: Outage, report: Report) -> str:
    """Return a row of the table in docs/replicas.md."""
    problems = ", ".join(f"{number} {code}" for code, number in report.problems.items()) or "none"
    good = f"{report.answers[200]} 200, {report.answers[202]} 202"
    return f"| {name}, {outage.seconds:g} s | {good} | {problems} | {report.seconds:.0f} |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[*OUTAGES], metavar="NAME")
    parser.add_argument("--pictures", type=int, default=30, help="in each outage")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)  # PostgreSQL runs as a different user
        try_outages(Path(name), arguments.pictures, arguments.names)


if __name__ == "__main__":
    main()
