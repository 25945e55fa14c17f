"""Restarts: of a worker that is not ready yet, and of all replicas at once."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from skimage import data

from superres.jobs.jobs import Jobs
from superres.jobs.jobs_schema import SCHEMA
from superres.jobs.postgres_database import PostgresDatabase
from superres.jobs.sqlite_database import SqliteDatabase
from superres.paths import PROJECT_DIR
from testkit import loopback
from testkit.pictures import encode
from testkit.postgres import run_postgres
from testkit.service import GUNICORN, Service, run_light_service, run_service, wait_until_ready
from testkit.waiting import WAIT_SECONDS, wait_until
from tests.faults import SERVE

# gunicorn's own default is 30.
WORKER_TIMEOUT_SECONDS = 8
# The application, with a model that loads slowly.
SLOW_APP = """
import time
import app as original
load = original.SuperResolution

def load_slowly(*arguments):
    time.sleep(1.5)
    return load(*arguments)

original.SuperResolution = load_slowly
app = original.create_app()
"""
# Prints how a master and its worker, which it forks, would name the worker.
NAMES = """
import os
from superres.jobs.jobs_schema import make_owner, owner_prefix
reading, writing = os.pipe()
worker = os.fork()
if worker == 0:
    os.write(writing, make_owner().encode())
    os._exit(0)
os.waitpid(worker, 0)
print(owner_prefix(worker), os.read(reading, 500).decode(), owner_prefix(7))
"""


def test_worker_that_is_stopped_while_its_model_loads_does_not_end_the_service(
    tmp_path: Path,
) -> None:
    (tmp_path / "slow_app.py").write_text(SLOW_APP)
    command = [*GUNICORN[:-1], "--pythonpath", str(tmp_path), "slow_app:app"]
    with run_light_service(tmp_path / "service", command) as service:
        for workers in (2, 3):
            os.kill(service.process.pid, signal.SIGHUP)
            wait_until(lambda: service.log.count("Booting worker") >= workers)  # noqa: B023
        wait_until(lambda: service.log.count("Worker exiting") == 2)
        wait_until_ready(service)
        assert "exited with code" not in service.log
        assert "cannot be loaded" not in service.log


def test_masters_of_equal_hosts_and_numbers_do_not_take_each_others_jobs(tmp_path: Path) -> None:
    def name_worker() -> tuple[str, str, str]:
        command = [sys.executable, "-c", NAMES]
        out = subprocess.run(command, cwd=PROJECT_DIR, check=True, capture_output=True, text=True)
        prefix, owner, of_seven = out.stdout.split()
        return prefix, owner, of_seven

    (prefix, owner, mine), (_, _, theirs) = name_worker(), name_worker()
    assert owner.startswith(prefix)
    assert mine != theirs
    database = SqliteDatabase(tmp_path / "jobs.sqlite3", SCHEMA)
    table = Jobs(database, f"{mine}abcd")
    table.submit("name", {}, 1, "upload")
    assert table.claim_next()
    Jobs(database, "another").requeue_abandoned(theirs)
    assert table.renew("name", 1, 2)
    database.close()


def test_workers_of_one_master_take_over_from_each_other_at_once_after_reloads_too(
    tmp_path: Path,
) -> None:
    large = encode(Image.fromarray(data.astronaut()).resize((2500, 2500)), "PNG")
    with (
        run_service(tmp_path, lanes=1) as service,
        closing(SqliteDatabase(tmp_path / "state" / "jobs.sqlite3", ())) as table,
    ):
        post_picture(service.url, large, "respond-async")
        owners = [wait_for_owner(table, [])]
        os.kill(service.process.pid, signal.SIGHUP)
        time.sleep(0.2)
        os.kill(service.process.pid, signal.SIGHUP)
        wait_until(lambda: service.log.count("Worker exiting") == 2)
        owners.append(wait_for_owner(table, owners))
        for statement in NOTE_WHAT_IS_GIVEN_UP:
            table.execute(statement)
        os.kill(service.worker_pid, signal.SIGKILL)
        owners.append(wait_for_owner(table, owners))
        # Not when its lease expired: the master recognized its owner's name.
        assert table.execute("SELECT owner, lease_left > 0 FROM given_up") == [(owners[1], 1)]
        assert len({owner.rsplit(":", 2)[0] for owner in owners}) == 1
        # Released twice, which does not count as an attempt, and killed once.
        assert table.execute("SELECT attempts FROM jobs") == [(2,)]
        assert service.log.count("Booting worker") == 4
        assert "exited with code" not in service.log
        assert service.process.poll() is None


def test_worker_that_was_frozen_with_its_master_answers_who_waits(tmp_path: Path) -> None:
    picture = encode(Image.fromarray(data.astronaut()), "PNG")
    with (
        run_service(tmp_path, [*GUNICORN, "--timeout", str(WORKER_TIMEOUT_SECONDS)]) as service,
        ThreadPoolExecutor(1) as pool,
    ):
        waiting = pool.submit(post_picture, service.url, picture)
        wait_until(lambda: loopback.get(f"{service.url}/api/stats").json()["queue_length"] == 1)
        processes = (service.process.pid, service.worker_pid)
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        time.sleep(WORKER_TIMEOUT_SECONDS + 3)
        # The master first, which is the worst case.
        os.kill(processes[0], signal.SIGCONT)
        time.sleep(1.5)
        os.kill(processes[1], signal.SIGCONT)
        assert waiting.result().status_code == 200
        assert "WORKER TIMEOUT" not in service.log
        # A worker that hangs on its own is still killed.
        os.kill(processes[1], signal.SIGSTOP)
        wait_until(lambda: "WORKER TIMEOUT" in service.log)
        wait_until(lambda: service.log.count("Booting worker") == 2)


NOTE_WHAT_IS_GIVEN_UP = (
    "CREATE TABLE given_up (owner TEXT, lease_left REAL)",
    """CREATE TRIGGER note AFTER UPDATE ON jobs WHEN OLD.state = 'running' AND NEW.state = 'queued'
    BEGIN INSERT INTO given_up VALUES (OLD.owner, OLD.lease_until - now()); END""",
)


def wait_for_owner(table: SqliteDatabase, former: list[str]) -> str:
    """Wait until the only job has a new owner; return it."""
    rows: list[tuple[str]] = []

    def is_owned() -> bool:
        rows[:] = table.execute("SELECT owner FROM jobs WHERE state = 'running'")
        return bool(rows) and rows[0][0] not in former

    wait_until(is_owned)
    return rows[0][0]


# --- several replicas


@contextmanager
def run_replicas(folder: Path, url: str, clocks: tuple[str, str]) -> Iterator[list[Service]]:
    """Run two replicas whose clocks are off until the block ends."""
    with ExitStack() as stack:
        replicas = []
        for number, clock in enumerate(clocks):
            command: tuple[str, ...] = GUNICORN
            if clock:
                (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
                fake = (f"LD_PRELOAD={library}", f"FAKETIME={clock}")
                command = ("env", *fake, "FAKETIME_DONT_FAKE_MONOTONIC=1")
                command += (sys.executable, "-c", SERVE, "app:app")
            settings: dict[str, Any] = {
                "database_url": url,
                "store_url": f"file://{folder / 'store'}",
            }
            name = f"replica {number} {len(list(folder.iterdir()))}"
            replicas.append(
                stack.enter_context(run_light_service(folder / name, command, **settings))
            )
        yield replicas


def draw(number: int) -> bytes:
    """Return the image for a number."""
    photo = Image.fromarray(data.astronaut())
    return encode(photo.crop((number, number, number + 100, number + 80)), "PNG")


def post(url: str, number: int, prefer: str = "") -> httpx.Response:
    return post_picture(url, draw(number), prefer)


def post_picture(url: str, content: bytes, prefer: str = "") -> httpx.Response:
    headers = {"Content-Type": "image/png"} | ({"Prefer": prefer} if prefer else {})
    return loopback.post(
        f"{url}/api/enhance", content=content, headers=headers, timeout=WAIT_SECONDS
    )


def test_replicas_whose_clocks_are_apart_are_restarted_at_once_and_lose_nothing() -> None:
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(8) as pool:
        folder = Path(name)
        folder.chmod(0o755)
        with run_postgres(folder / "postgres") as url:
            with run_replicas(folder, url, ("+5m", "-5m")) as replicas:
                urls = [replica.url for replica in replicas]
                accepted = [post(urls[each % 2], each, "respond-async") for each in range(16)]
                assert {answer.status_code for answer in accepted} == {202}
                waiting = [pool.submit(post, urls[each % 2], 50 + each) for each in range(4)]
                polls = [
                    pool.submit(ask, each, accepted[-1].json()["id"], wait_seconds=30)
                    for each in urls
                ]
                with closing(PostgresDatabase(url, ())) as table:
                    wait_until(lambda: count(table, "done") >= 4)
                wait_until(lambda: are_received(urls, waiting))
                time.sleep(1)  # the polls are not counted anywhere
                for replica in replicas:
                    replica.process.terminate()
            assert [each.result().status_code for each in [*waiting, *polls]] == [200] * 6
            with run_replicas(folder, url, ("", "")) as replicas:
                urls = [replica.url for replica in replicas]
                results = [
                    fetch(urls[each % 2], answer.json()["id"])
                    for each, answer in enumerate(accepted)
                ]
                again = [post(urls[each % 2], each) for each in range(16)]
                assert {answer.headers["X-Cache-Hit"] for answer in again} == {"true"}
                assert results == [answer.content for answer in again]


def are_received(urls: list[str], waiting: list[Future[httpx.Response]]) -> bool:
    """Tell whether each upload is waiting in its replica, or has its response."""
    counted = sum(int(loopback.get(f"{url}/api/stats").json()["waiting_requests"]) for url in urls)
    return counted + sum(each.done() for each in waiting) >= len(waiting)


def ask(url: str, ticket: str, wait_seconds: int) -> httpx.Response:
    """Poll a job's status, waiting for a change."""
    headers = {"Prefer": f"wait={wait_seconds}"}
    return loopback.get(f"{url}/api/jobs/{ticket}", headers=headers, timeout=WAIT_SECONDS)


def count(table: PostgresDatabase, state: str) -> int:
    """Count the jobs in a state."""
    number: int = table.execute("SELECT count(*) FROM jobs WHERE state = ?", [state])[0][0]
    return number


def fetch(url: str, ticket: str) -> bytes:
    """Wait for a job and return its result."""
    status: dict[str, Any] = {}

    def has_ended() -> bool:
        answer = ask(url, ticket, wait_seconds=5)
        assert answer.status_code == 200, answer.text
        status.update(answer.json())
        return status["state"] not in {"queued", "running"}

    wait_until(has_ended)
    assert status["state"] == "done", status
    return loopback.get(status["result"]).content
