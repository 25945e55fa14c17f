"""What keeps the jobs table in order: sums, what the dead have left, what is old."""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice

from superres.jobs.database import Database
from superres.jobs.job_records import Backlog
from superres.jobs.jobs_schema import TURN

# An owner renews its lease every second or so; when it died, others take over after this.
LEASE_SECONDS = 10.0
# A job that killed its process so often is not tried again.
MAX_ATTEMPTS = 3
OPEN = "('queued', 'running')"
STATES = ("queued", "running", "done", "failed", "cancelled")
# A lease far in the future means that the clock was set back.
FAR = f"lease_until > now() + {2 * LEASE_SECONDS}"
# A queued job has no lease; where it is to wait before the next attempt, that time stands there.
READY = f"(lease_until <= now() OR {FAR})"
# Not EXISTS, for which PostgreSQL reads all tickets at once where it is asked for many jobs.
WANTED = (
    "(wanted_until > now() OR coalesce"
    "((SELECT min(withdrawn) FROM tickets WHERE tickets.name = jobs.name), 1) = 0)"
)
# Tickets, and ended jobs, each: half a gigabyte in all. Beyond, the oldest that have ended are
# forgotten before their time; where none has, no ticket is given.
MAX_ROWS = 1_000_000
# A statement changes no more rows than it can in some 20 ms; others wait for it meanwhile.
BATCH = 500
BATCHES_A_PURGE = 40
NAMES_AT_ONCE = 200


class JobsUpkeep:
    """The jobs of all processes that share a database, as those who clear up see them.

    Parameters
    ----------
    owner : names this process; see `owner_prefix`

    Every method raises DatabaseDown where the database does not answer.
    """

    def __init__(self, database: Database, owner: str) -> None:
        self.database = database
        self.owner = owner
        self._looked_up_to = 0.0

    # --- sums

    def backlog(self, name: str) -> Backlog:
        """Return how much is queued or running with an upload, and whether a result is among it."""
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
        """Return how many jobs there are in each state."""
        rows = self.database.execute(
            "SELECT what, sum(number) FROM totals WHERE what <> 'tickets' GROUP BY what"
        )
        return dict.fromkeys(STATES, 0) | {state: int(number) for state, number in rows}

    def open_pixels(self) -> dict[str, int]:
        """Return the input pixels of jobs that are queued, and of those that are running."""
        rows = self.database.execute(
            f"SELECT what, sum(pixels) FROM totals WHERE what IN {OPEN} GROUP BY what"
        )
        return {"queued": 0, "running": 0} | {state: int(pixels) for state, pixels in rows}

    # --- uploads

    def table_id(self) -> str:
        """Return what the table is called in the names of its uploads."""
        table_id: str = self.database.execute("SELECT id FROM identity")[0][0]
        return table_id

    def open_spools(self, names: Iterable[str]) -> set[str]:
        """Return those of some uploads that queued and running jobs have."""
        found: set[str] = set()
        for batch in in_batches(names):
            marks = ", ".join("?" * len(batch))
            # Not by their state as well: SQLite would read the whole queue.
            rows = self.database.execute(
                f"SELECT spool, state FROM jobs WHERE spool IN ({marks})", batch
            )
            found.update(spool for spool, state in rows if state in {"queued", "running"})
        return found

    # --- leases

    def renew_all(self) -> dict[str, tuple[int, int]]:
        """Go on owning all jobs of this process; return their names, and what is told of each.

        In one statement: with one for each of a full queue's, leases were over before their turn
        came where a statement took 300 ms.
        """
        rows = self.database.execute(
            """UPDATE jobs SET lease_until = now() + ? WHERE state = 'running' AND owner = ?
            RETURNING name, tiles_done, tiles_total""",
            [LEASE_SECONDS, self.owner],
        )
        return {name: (done, total) for name, done, total in rows}

    # --- back to the queue

    def requeue(self, name: str, counts: bool = True, pause_seconds: float = 0) -> None:
        """Queue a job of this process again, for another attempt by anybody.

        Parameters
        ----------
        counts : as one of its attempts
        pause_seconds : until then nobody claims it for its tickets, less than two leases
        """
        self._requeue("name = ? AND owner = ?", [name, self.owner], counts, pause_seconds)

    def reclaim(self, name: str) -> bool:
        """Take a job that was queued again while this process computes it; it is one attempt."""
        return bool(
            self.database.execute(
                """UPDATE jobs SET state = 'running', owner = ?, lease_until = now() + ?
                WHERE name = ? AND state = 'queued' RETURNING name""",
                [self.owner, LEASE_SECONDS, name],
            )
        )

    def release_all(self) -> None:
        """Give all jobs of this process to whoever comes next: it is about to end."""
        self._requeue("owner = ?", [self.owner], counts=False)

    def requeue_abandoned(self, owner_prefix: str | None = None) -> None:
        """Queue again what dead owners had, those with a prefix or those whose lease is over.

        What waited in the dead process alone is cancelled, since its upload is gone; what killed
        its process too often has failed.
        """
        if owner_prefix is None:
            # Of two statements: a server that was frozen, or a line that was cut, may let one wait
            # until all leases are over, and then the sweep would take what everybody has.
            now = self.database.execute("SELECT now()")[0][0]
            self._requeue_or_fail(f"(lease_until < ? OR {FAR})", [now])
        else:
            self._requeue_or_fail("substr(owner, 1, ?) = ?", [len(owner_prefix), owner_prefix])

    def requeue_unknown(self, names: Collection[str]) -> None:
        """Queue again what this process owns and does not know of.

        The answer to a claim, or the end of a job, was lost on the way from or to the database.
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
        problem = {"status": 500, "code": "internal_error", "message": "It failed repeatedly."}
        self.database.execute(
            f"""UPDATE jobs SET owner = NULL, wanted_until = 0, tiles_done = 0, updated = now(),
                lease_until = now() + ?,
                state = CASE WHEN spool IS NULL THEN 'cancelled'
                    WHEN attempts < {MAX_ATTEMPTS} THEN 'queued' ELSE 'failed' END,
                problem = CASE WHEN spool IS NOT NULL AND attempts >= {MAX_ATTEMPTS} THEN ? END
            WHERE state = 'running' AND {condition}""",
            [pause_seconds, json.dumps(problem), *parameters],
        )

    # --- what is old

    def purge(self, ttl_seconds: float) -> None:
        """Forget tickets and ended jobs of this age, and cancel what nobody wants any more.

        A part of it, where there is much: the next purge goes on.
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
        """Look through a part of the queue: each job takes its turn, a short queue at once."""
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
        """Keep tickets and ended jobs within their number: the oldest that have ended go."""
        rows = self.database.execute("SELECT what, sum(number) FROM totals GROUP BY what")
        numbers: dict[str, int] = {what: int(number) for what, number in rows}
        ended = sum(numbers.get(state, 0) for state in ("done", "failed", "cancelled"))
        # Before the limit is reached, so that there is room for the next tickets.
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
    """Yield names in lists that one statement can have."""
    rest = iter(names)
    while batch := list(islice(rest, NAMES_AT_ONCE)):
        yield batch
