"""Restarts: of a worker that is not ready yet, and of all replicas at once."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from databases import SqliteDatabase
from jobs import Jobs
from jobs_schema import SCHEMA
from tests.service import GUNICORN, PROJECT_DIR, run_service, wait_until_ready
from tests.waiting import wait_until

# The application, whose model takes its time.
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
from jobs_schema import make_owner, owner_prefix
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
    with run_service(tmp_path / "service", command) as service:
        for workers in (2, 3, 4):
            os.kill(service.process.pid, signal.SIGHUP)
            wait_until(lambda: service.log.count("Booting worker") >= workers)  # noqa: B023
        wait_until(lambda: service.log.count("Worker exiting") == 3)
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
    Jobs(database, "another").give_up_dead(theirs)
    assert table.renew("name", 1, 2)
    database.close()
