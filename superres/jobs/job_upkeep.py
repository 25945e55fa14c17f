"""Upkeep of the jobs table: totals, leases, requeueing after crashes, and purging."""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice

from superres.jobs.database import Database
from superres.jobs.job_records import Backlog
from superres.jobs.jobs_schema import TURN

# An owner renews its lease every second or so; after this long, others take over from a dead one.
LEASE_SECONDS = 10.0
# A job that has killed its process this many times is not retried.
MAX_ATTEMPTS = 3
OPEN = "('queued', 'running')"
STATES = ("queued", "running", "done", "failed", "cancelled")
# A lease far in the future means that the clock was set back.
FAR = f"lease_until > now() + {2 * LEASE_SECONDS}"
# A queued job has no lease; if it must wait before its next attempt, the column holds that time.
READY = f"(lease_until <= now() OR {FAR})"
# Not EXISTS, for which PostgreSQL reads the whole tickets table when many jobs are checked.
WANTED = (
    "(wanted_until > now() OR coalesce"
    "((SELECT min(withdrawn) FROM tickets WHERE tickets.name = jobs.name), 1) = 0)"
)
# For tickets, and for ended jobs: half a gigabyte in all. Beyond it, the oldest that have ended are
# deleted early; if none has, no new ticket is issued.
MAX_ROWS = 1_000_000
# A statement changes no more rows than it can in some 20 ms, since others wait for it.
BATCH = 500
BATCHES_A_PURGE = 40
NAMES_AT_ONCE = 200


class JobsUpkeep:
    """The jobs of all processes that share a database: the upkeep part.

    Parameters
    ----------
    owner : names this process; see `owner_prefix`

    Every method raises DatabaseDown if the database does not respond.
    """

    def __init__(self, database: Database, owner: str) -> None:
        self.database = database
        self.owner = owner
        self._looked_up_to = 0.0

    # --- totals

    def backlog(self, name: str) -> Backlog:
        """Return how much with an upload is queued or running, and whether that has a result."""
        rows = self.database.execute(
            f"""SELECT coalesce(sum(number), 0), coalesce(sum(pixels), 0),
                (SELECT count(*) FROM jobs
                    WHERE name = ? AND state IN {OPEN} AND spool IS NOT NULL),
                (SELECT id FROM identity)
            FROM totals WHERE what IN {OPEN} AND spooled = 1""",
            [name],
        )
        jobs, pixels, has_it, table_id = rows[0]
        return Backlog(int(jobs), int(pixels), bool(has_it), table_id)

    def count_states(self) -> dict[str, int]:
        """Return the number of jobs in each state."""
        rows = self.database.execute(
            "SELECT what, sum(number) FROM totals WHERE what <> 'tickets' GROUP BY what"
        )
        return dict.fromkeys(STATES, 0) | {state: int(number) for state, number in rows}

    def open_pixels(self) -> dict[str, int]:
        """Return the input pixels of queued jobs, and of running ones."""
        rows = self.database.execute(
            f"SELECT what, sum(pixels) FROM totals WHERE what IN {OPEN} GROUP BY what"
        )
        return {"queued": 0, "running": 0} | {state: int(pixels) for state, pixels in rows}

    # --- uploads

    def table_id(self) -> str:
        """Return the table's ID, which is part of the names of its uploads."""
        table_id: str = self.database.execute("SELECT id FROM identity")[0][0]
        return table_id

    def open_spools(self, names: Iterable[str]) -> set[str]:
        """Return which of some uploads belong to queued or running jobs."""
        found: set[str] = set()
        for batch in in_batches(names):
            marks = ", ".join("?" * len(batch))
            # The state is not in the condition: SQLite would read the whole queue.
            rows = self.database.execute(
                f"SELECT spool, state FROM jobs WHERE spool IN ({marks})", batch
            )
            found.update(spool for spool, state in rows if state in {"queued", "running"})
        return found

    # --- leases

    def renew_all(self) -> dict[str, tuple[int, int]]:
        """Renew the leases of all jobs of this process; return each one's name and progress.

        In one statement: with one statement per job and a full queue, leases expired before their
        turn came when a statement took 300 ms.
        """
        rows = self.database.execute(
            """UPDATE jobs SET lease_until = now() + ? WHERE state = 'running' AND owner = ?
            RETURNING name, tiles_done, tiles_total""",
            [LEASE_SECONDS, self.owner],
        )
        return {name: (done, total) for name, done, total in rows}

    # --- back to the queue

    def requeue(self, name: str, counts: bool = True, pause_seconds: float = 0) -> None:
        """Requeue a job of this process, for another attempt by any process.

        Parameters
        ----------
        counts : whether this counts as one of its attempts
        pause_seconds : how long it cannot be claimed for its tickets; less than two leases
        """
        self._requeue("name = ? AND owner = ?", [name, self.owner], counts, pause_seconds)

    def reclaim(self, name: str) -> bool:
        """Claim a job again that was requeued while this process computes it; one attempt."""
        return bool(
            self.database.execute(
                """UPDATE jobs SET state = 'running', owner = ?, lease_until = now() + ?
                WHERE name = ? AND state = 'queued' RETURNING name""",
                [self.owner, LEASE_SECONDS, name],
            )
        )

    def release_all(self) -> None:
        """Release all jobs of this process to others: it is about to exit."""
        self._requeue("owner = ?", [self.owner], counts=False)

    def requeue_abandoned(self, owner_prefix: str | None = None) -> None:
        """Requeue the jobs of dead owners: those with a prefix, or those whose lease has expired.

        Jobs that existed only in the dead process are cancelled, since their uploads are gone;
        those that have killed their process too often fail.
        """
        if owner_prefix is None:
            # Two statements: a frozen server or a broken connection may delay one until all leases
            # have expired, and then it would requeue everybody's jobs.
            now = self.database.execute("SELECT now()")[0][0]
            self._requeue_or_fail(f"(lease_until < ? OR {FAR})", [now])
        else:
            self._requeue_or_fail("substr(owner, 1, ?) = ?", [len(owner_prefix), owner_prefix])

    def requeue_unknown(self, names: Collection[str]) -> None:
        """Requeue jobs that this process owns without knowing of them.

        The response to a claim, or the end of a job, was lost on the way from or to the database.
        """
        rows = self.database.execute(
            "SELECT name FROM jobs WHERE state = 'running' AND owner = ?", [self.owner]
        )
        for (name,) in rows:
            if name not in names:
                self._requeue("name = ? AND owner = ?", [name, self.owner], counts=False)

    def _requeue(
        self,
        condition: str,
        parameters: Sequence[object],
        counts: bool,
        pause_seconds: float = 0,
    ) -> None:
        if not counts:
            self.database.execute(
                f"""UPDATE jobs SET attempts = attempts - 1
                WHERE state = 'running' AND {condition}""",
                [*parameters],
            )
        self._requeue_or_fail(condition, parameters, pause_seconds)

    def _requeue_or_fail(
        self, condition: str, parameters: Sequence[object], pause_seconds: float = 0
    ) -> None:
        problem = {"status": 500, "code": "internal_error", "message": "The job failed repeatedly."}
        self.database.execute(
            f"""UPDATE jobs SET owner = NULL, wanted_until = 0, tiles_done = 0, updated = now(),
                lease_until = now() + ?,
                state = CASE WHEN spool IS NULL THEN 'cancelled'
                    WHEN attempts < {MAX_ATTEMPTS} THEN 'queued' ELSE 'failed' END,
                problem = CASE WHEN spool IS NOT NULL AND attempts >= {MAX_ATTEMPTS} THEN ? END
            WHERE state = 'running' AND {condition}""",
            [pause_seconds, json.dumps(problem), *parameters],
        )

    # --- purging

    def purge(self, ttl_seconds: float) -> None:
        """Delete tickets and ended jobs of this age, and cancel jobs that nobody wants any more.

        If there is much to do, only a part of it; the next purge continues.
        """
        self._delete(
            "tickets",
            f"""SELECT ticket FROM tickets WHERE created < now() - ?
            ORDER BY created LIMIT {BATCH} FOR UPDATE SKIP LOCKED""",
            [ttl_seconds],
        )
        self._cancel_unwanted()
        self._delete(
            "jobs",
            f"""SELECT name FROM jobs WHERE updated < now() - ? AND state NOT IN {OPEN}
            ORDER BY updated LIMIT {BATCH} FOR UPDATE SKIP LOCKED""",
            [ttl_seconds],
        )
        self._forget_early()

    def _delete(self, table: str, chosen: str, parameters: Sequence[object] = ()) -> None:
        key = {"tickets": "ticket", "jobs": "name"}[table]
        for _ in range(BATCHES_A_PURGE):
            rows = self.database.execute(
                f"DELETE FROM {table} WHERE {key} IN ({chosen}) RETURNING {key}", parameters
            )
            if len(rows) < BATCH:
                break

    def _cancel_unwanted(self) -> None:
        """Check part of the queue, continuing after the last call's; all of it if short."""
        rows = self.database.execute(
            f"""SELECT count(*), max(turn) FROM (SELECT {TURN} AS turn FROM jobs
                WHERE state = 'queued' AND {TURN} > ? ORDER BY {TURN} LIMIT {BATCH}) AS part""",
            [self._looked_up_to],
        )
        number, last = rows[0]
        if number:
            self.database.execute(
                f"""UPDATE jobs SET state = 'cancelled', updated = now()
                WHERE state = 'queued' AND {TURN} > ? AND {TURN} <= ? AND NOT {WANTED}""",
                [self._looked_up_to, last],
            )
        self._looked_up_to = last if number == BATCH else 0.0

    def _forget_early(self) -> None:
        """Keep tickets and ended jobs within their limit by deleting the oldest ended ones."""
        rows = self.database.execute("SELECT what, sum(number) FROM totals GROUP BY what")
        numbers: dict[str, int] = {what: int(number) for what, number in rows}
        ended = sum(numbers.get(state, 0) for state in ("done", "failed", "cancelled"))
        # Before the limit is reached, to leave room for new tickets.
        if numbers.get("tickets", 0) > 0.9 * MAX_ROWS:
            self._delete(
                "tickets",
                f"""SELECT ticket FROM (SELECT ticket, name FROM tickets
                    ORDER BY created LIMIT {BATCH} FOR UPDATE SKIP LOCKED) AS oldest
                WHERE NOT EXISTS
                    (SELECT 1 FROM jobs WHERE jobs.name = oldest.name AND state IN {OPEN})""",
            )
        if ended > 0.9 * MAX_ROWS:
            self._delete(
                "jobs",
                f"""SELECT name FROM (SELECT name, state FROM jobs
                    ORDER BY updated LIMIT {BATCH} FOR UPDATE SKIP LOCKED) AS oldest
                WHERE state NOT IN {OPEN}""",
            )


def in_batches(names: Iterable[str]) -> Iterator[list[str]]:
    """Yield names in lists short enough for one statement."""
    rest = iter(names)
    while batch := list(islice(rest, NAMES_AT_ONCE)):
        yield batch
