"""The cost of a large jobs table: milliseconds for each of its statements.

    python -m bench.table [--ended 1000000] [--queued 100000]

Compared with an empty table: one with ended jobs, as left by a day of work, and one with queued
jobs, as left by a day of uploads that nobody computes; each row has a ticket.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from superres.jobs.database import Database
from superres.jobs.jobs import Jobs
from superres.jobs.jobs_schema import SCHEMA, make_owner
from superres.jobs.postgres_database import PostgresDatabase
from superres.jobs.sqlite_database import SqliteDatabase
from testkit.postgres import run_postgres

QUEUED = 100
AT_ONCE = 30
REPEATS = 200
BATCH = 10_000
# Uploads looked up by one sweep of the folder.
SPOOLED = 1000


def fill(database: Database, rows: int, state: str) -> None:
    """Insert jobs in a state, with their tickets and the names of their uploads."""
    for first in range(0, rows, BATCH):
        numbers = range(first, min(first + BATCH, rows))
        values = ", ".join(
            f"('{number:064x}.000000000000.png', '{state}', '{{}}', {50_000 + number % 100_000},"
            f" 'spool{number}', now() - {number % 1000}, now())"
            for number in numbers
        )
        columns = "(name, state, options, pixels, spool, created, updated)"
        database.execute(f"INSERT INTO jobs {columns} VALUES {values}")
        values = ", ".join(
            f"('{number:024d}', '{number:064x}.000000000000.png', now())" for number in numbers
        )
        database.execute(f"INSERT INTO tickets (ticket, name, created) VALUES {values}")


def tell(seconds: list[float]) -> str:
    """Format median and 99th percentile, in milliseconds."""
    return " / ".join(f"{1000 * each:.2f}" for each in np.percentile(seconds, [50, 99]))


def measure(act: Callable[[], object], repeats: int = REPEATS) -> str:
    """Return median and 99th percentile of a statement, in milliseconds."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - started)
    return tell(seconds)


def measure_at_once(act: Callable[[], object]) -> str:
    """Return median and 99th percentile of concurrent statements, in milliseconds."""

    def timed(_: int) -> float:
        started = time.perf_counter()
        act()
        return time.perf_counter() - started

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return tell([each for _ in range(5) for each in pool.map(timed, range(AT_ONCE))])


def measure_all(database: Database, rows: int, state: str) -> dict[str, str]:
    """Return the time that each statement takes."""
    jobs = Jobs(database, make_owner())
    fill(database, rows, state)
    numbers = iter(range(10**9, 2 * 10**9))

    def accept() -> str:
        """Do what a request to accept an upload does."""
        name = f"{next(numbers):064x}.000000000000.png"
        jobs.backlog(name)
        return jobs.submit(name, {}, 200_000, "spool")[0]

    tickets = [accept() for _ in range(QUEUED)]
    times = {
        "accept an upload (backlog, ticket, job)": measure(accept),
        f"the same, {AT_ONCE} at once": measure_at_once(accept),
        "backlog alone": measure(lambda: jobs.backlog("name")),
        "find (position, time left), the last of the queue": measure(lambda: jobs.find(tickets[0])),
        "glance": measure(lambda: jobs.glance(tickets[0])),
    }

    # Each step separately; the queue has enough jobs for all.
    seconds: dict[str, list[float]] = {"claim_next": [], "renew": [], "finish": []}
    for _ in range(QUEUED):
        began = time.perf_counter()
        claim = jobs.claim_next()
        claimed = time.perf_counter()
        assert claim is not None
        assert jobs.renew(claim.name, 1, 2)
        renewed = time.perf_counter()
        jobs.finish(claim.name)
        ended = time.perf_counter()
        for step, took in zip(
            seconds, (claimed - began, renewed - claimed, ended - renewed), strict=True
        ):
            seconds[step].append(took)
    times |= {step: tell(each) for step, each in seconds.items()}
    times["claim for a waiting request, finish"] = measure(
        lambda: (jobs.claim(name := f"{next(numbers):064x}.x.png", {}, 1, 10), jobs.finish(name))
    )
    times["withdraw, cancel"] = measure(
        lambda: (jobs.withdraw(tickets[1]), jobs.cancel_unless_wanted("name"))
    )
    times["give up dead"] = measure(jobs.requeue_abandoned)
    # Both scan the queue, a part each time.
    times["purge (nothing is old)"] = measure(lambda: jobs.purge(86400), 20)
    names = [f"spool{number}" for number in range(SPOOLED)]
    times[f"open spools, of {SPOOLED:,} names"] = measure(lambda: jobs.open_spools(names), 20)
    times["states, for a scrape"] = measure(jobs.count_states)
    times["pixels, for a scrape"] = measure(jobs.open_pixels)
    return times


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ended", type=int, default=1_000_000)
    parser.add_argument("--queued", type=int, default=100_000)
    arguments = parser.parse_args()
    results: dict[str, dict[str, str]] = {}
    tables = ((0, "done"), (arguments.ended, "done"), (arguments.queued, "queued"))
    for count, state in dict.fromkeys(tables):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            folder.chmod(0o755)
            sqlite = SqliteDatabase(folder / "jobs.sqlite3", SCHEMA)
            kind = f"{count:,} {state}" if count else "empty"
            results[f"SQLite, {kind}"] = measure_all(sqlite, count, state)
            sqlite.close()
            with run_postgres(folder / "postgres") as url:
                postgres = PostgresDatabase(url, SCHEMA)
                results[f"PostgreSQL, {kind}"] = measure_all(postgres, count, state)
                postgres.close()
    print("| median / p99, ms | " + " | ".join(results) + " |")
    print("|---|" + "---|" * len(results))
    for statement in next(iter(results.values())):
        print(f"| {statement} | " + " | ".join(each[statement] for each in results.values()) + " |")


if __name__ == "__main__":
    main()
