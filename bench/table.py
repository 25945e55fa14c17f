"""What the jobs table costs when it is large: milliseconds for each of its statements.

    python -m bench.table [--rows 1000000]

Rows are ended jobs with a ticket each, as a day leaves them; beside them 100 queued ones.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from databases import Database, PostgresDatabase, SqliteDatabase
from jobs import Jobs
from jobs_schema import SCHEMA, make_owner
from tests.postgres import run_postgres

QUEUED = 100
REPEATS = 200
BATCH = 10_000


def fill(database: Database, rows: int) -> None:
    """Write ended jobs, and their tickets."""
    for first in range(0, rows, BATCH):
        numbers = range(first, min(first + BATCH, rows))
        values = ", ".join(
            f"('{number:064x}.000000000000.png', 'done', '{{}}', 100000, now(), now())"
            for number in numbers
        )
        columns = "(name, state, options, pixels, created, updated)"
        database.execute(f"INSERT INTO jobs {columns} VALUES {values}")
        values = ", ".join(
            f"('{number:024d}', '{number:064x}.000000000000.png', now())" for number in numbers
        )
        database.execute(f"INSERT INTO tickets (ticket, name, created) VALUES {values}")


def measure(act: Callable[[], object], repeats: int = REPEATS) -> str:
    """Return median and 99th percentile of a statement, in milliseconds."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - started)
    return " / ".join(f"{1000 * each:.2f}" for each in np.percentile(seconds, [50, 99]))


def measure_all(database: Database, rows: int) -> dict[str, str]:
    """Return what each statement takes."""
    jobs = Jobs(database, make_owner())
    fill(database, rows)
    if isinstance(database, PostgresDatabase):
        database.execute("ANALYZE")
    numbers = iter(range(10**9, 2 * 10**9))

    def submit() -> str:
        name = f"{next(numbers):064x}.000000000000.png"
        return jobs.submit(name, {}, 100_000, "spool")[0]

    tickets = [submit() for _ in range(QUEUED)]
    times = {
        "submit": measure(submit),
        "find (position, time left)": measure(lambda: jobs.find(tickets[0])),
    }
    times["glance"] = measure(lambda: jobs.glance(tickets[0]))

    def work() -> None:
        claim = jobs.claim_next()
        assert claim is not None
        assert jobs.renew(claim.name, 1, 2)
        jobs.finish(claim.name)

    times["claim, renew, finish"] = measure(work)
    times["claim for a waiting request, finish"] = measure(
        lambda: (jobs.claim(name := f"{next(numbers):064x}.x.png", {}, 1, 10), jobs.finish(name))
    )
    times["open jobs"] = measure(jobs.open_jobs)
    times["give up dead"] = measure(jobs.give_up_dead)
    times["purge (nothing is old)"] = measure(lambda: jobs.purge(86400), 20)
    times["states and pixels, for a scrape"] = measure(
        lambda: (jobs.count_states(), jobs.open_pixels()), 20
    )
    return times


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    results: dict[str, dict[str, str]] = {}
    for count in (0, rows):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            folder.chmod(0o755)
            sqlite = SqliteDatabase(folder / "jobs.sqlite3", SCHEMA)
            results[f"SQLite, {count:,}"] = measure_all(sqlite, count)
            sqlite.close()
            with run_postgres(folder / "postgres") as url:
                postgres = PostgresDatabase(url, SCHEMA)
                results[f"PostgreSQL, {count:,}"] = measure_all(postgres, count)
                postgres.close()
    print("| median / p99, ms | " + " | ".join(results) + " |")
    print("|---|" + "---|" * len(results))
    for statement in next(iter(results.values())):
        print(f"| {statement} | " + " | ".join(each[statement] for each in results.values()) + " |")


if __name__ == "__main__":
    main()
