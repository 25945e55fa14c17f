"""The jobs table: who computes which result, who waits for it, and its progress.

Every change is a single autocommitted statement; only the database's clock counts. An owner whose
update matches no row has lost its job, whatever the reason, and stops.
"""

import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from superres.errors import Busy
from superres.jobs.database import Database
from superres.jobs.job_records import Cancelled, Claim, JobStatus
from superres.jobs.job_upkeep import FAR, LEASE_SECONDS, MAX_ROWS, OPEN, READY, WANTED, JobsUpkeep
from superres.jobs.jobs_schema import PIXELS_A_SECOND_OF_WAITING, TURN

TICKET_BYTES = 18
TICKET_PATTERN = re.compile(r"[A-Za-z0-9_-]{24}")
# Each upload of the same image gets its own ticket, which is a row for a day.
MAX_TICKETS_OF_JOB = 1000
TICKETS_RETRY_SECONDS = 30
# Option names known only to a newer version; one is enough for all jobs that have it.
MAX_FOREIGN = 100
# Jobs ahead are counted up to this many: ten thousand took PostgreSQL 99 ms.
MAX_POSITION = 1000


class Jobs(JobsUpkeep):
    """The jobs of all processes that share a database.

    Every method raises DatabaseDown if the database does not respond.
    """

    def __init__(self, database: Database, owner: str) -> None:
        super().__init__(database, owner)
        self._foreign: list[str] = []  # jobs whose options contain one of these are not claimed

    # --- tickets

    def submit(
        self, name: str, options: dict[str, Any], pixels: int, spool: str
    ) -> tuple[str, str]:
        """Queue a result, or join its job.

        Parameters
        ----------
        spool : where the upload is kept

        Returns
        -------
        A ticket, and where the job's upload is kept: if an earlier one is, `spool` is not needed.

        Raises
        ------
        Busy
            The job, or the table, has reached its limit of tickets.
        """
        ticket = secrets.token_urlsafe(TICKET_BYTES)
        # The ticket first: a job without one is unwanted and may be cancelled immediately.
        given = self.database.execute(
            f"""INSERT INTO tickets (ticket, name, created) SELECT ?, ?, now()
            WHERE (SELECT count(*) FROM (SELECT 1 FROM tickets WHERE name = ?
                    LIMIT {MAX_TICKETS_OF_JOB}) AS few) < {MAX_TICKETS_OF_JOB}
                AND (SELECT coalesce(sum(number), 0) FROM totals WHERE what = 'tickets')
                    < {MAX_ROWS}
            RETURNING ticket""",
            [ticket, name, name],
        )
        if not given:
            raise Busy(
                f"This image has {MAX_TICKETS_OF_JOB:,} tickets, or all have {MAX_ROWS:,}, as many "
                "as may: withdraw some (DELETE), or send it again when they have expired.",
                TICKETS_RETRY_SECONDS,
            )
        rows = self.database.execute(
            f"""INSERT INTO jobs (name, state, options, pixels, spool, created, updated)
            VALUES (?, 'queued', ?, ?, ?, now(), now())
            ON CONFLICT (name) DO UPDATE SET
                updated = now(), problem = NULL,
                spool = CASE WHEN jobs.state IN {OPEN} AND jobs.spool IS NOT NULL
                    THEN jobs.spool ELSE excluded.spool END,
                state = CASE WHEN jobs.state = 'running' THEN 'running' ELSE 'queued' END,
                attempts = CASE WHEN jobs.state IN {OPEN} THEN jobs.attempts ELSE 0 END,
                lease_until = CASE WHEN jobs.state IN {OPEN} THEN jobs.lease_until ELSE 0 END,
                tiles_done = CASE WHEN jobs.state = 'running' THEN jobs.tiles_done ELSE 0 END,
                created = CASE WHEN jobs.state IN {OPEN} THEN jobs.created ELSE now() END
            RETURNING spool""",
            [name, json.dumps(options), pixels, spool],
        )
        return ticket, rows[0][0]

    def withdraw(self, ticket: str) -> str | None:
        """Withdraw a ticket; return its job's name, or None if there is no such ticket."""
        rows = self.database.execute(
            "UPDATE tickets SET withdrawn = 1 WHERE ticket = ? RETURNING name", [ticket]
        )
        return rows[0][0] if rows else None

    def cancel_unless_wanted(self, name: str) -> Cancelled | None:
        """Cancel an open job that no ticket or waiting request wants; None if it continues."""
        rows = self.database.execute(
            f"""UPDATE jobs SET state = 'cancelled', owner = NULL, updated = now()
            WHERE name = ? AND state IN {OPEN} AND NOT {WANTED} RETURNING spool""",
            [name],
        )
        return Cancelled(rows[0][0]) if rows else None

    def extend_interest(self, name: str, seconds: float) -> None:
        """Record for how long a request in this process waits for a job; 0 if none does."""
        self.database.execute(
            "UPDATE jobs SET wanted_until = now() + ? WHERE name = ? AND owner = ?",
            [seconds, name, self.owner],
        )

    def glance(self, ticket: str) -> tuple[str, int] | None:
        """Return a ticket's state and its job's number of tiles done: cheap, for polling."""
        rows = self.database.execute(
            """SELECT CASE WHEN withdrawn = 1 THEN 'cancelled' ELSE state END, tiles_done
            FROM tickets JOIN jobs ON jobs.name = tickets.name WHERE ticket = ?""",
            [ticket],
        )
        return (rows[0][0], rows[0][1]) if rows else None

    def find(self, ticket: str) -> JobStatus | None:
        """Return what is known about a ticket's job."""
        rows = self.database.execute(
            f"""SELECT jobs.name, jobs.state, withdrawn, options, pixels, tiles_done, tiles_total,
                problem, jobs.created, updated, pixels + jobs.created * {PIXELS_A_SECOND_OF_WAITING}
            FROM tickets JOIN jobs ON jobs.name = tickets.name WHERE ticket = ?""",
            [ticket],
        )
        if not rows:
            return None
        name, state, withdrawn, options, pixels, done, total, problem, *times, turn = rows[0]
        share_left = 1 - done / total if total else 1.0
        is_queued = state == "queued"
        position, pixels_before = self._count_before(turn, pixels) if is_queued else (0, 0)
        return JobStatus(
            name=name,
            state="cancelled" if withdrawn else state,
            options=json.loads(options),
            pixels=pixels,
            tiles_done=done,
            tiles_total=total,
            position=position,
            pixels_ahead=int(pixels * share_left) + pixels_before,
            problem=json.loads(problem) if problem else None,
            created=times[0],
            updated=times[1],
        )

    def _count_before(self, turn: float, pixels: int) -> tuple[int, int]:
        """Return the number of queued jobs before a turn, and pixels, of running jobs too.

        A running job of more than twice as many pixels does not count: this one is claimed beside
        it, and computed first.
        """
        rows = self.database.execute(
            f"""SELECT count(*), coalesce(sum(pixels), 0),
                (SELECT coalesce(sum(
                    pixels - coalesce(pixels * tiles_done / nullif(tiles_total, 0), 0)), 0)
                    FROM jobs WHERE state = 'running' AND pixels <= ?)
            FROM (SELECT pixels FROM jobs WHERE state = 'queued' AND {TURN} < ?
                ORDER BY {TURN} LIMIT {MAX_POSITION}) AS before""",
            [2 * pixels, turn],
        )
        position, queued, running = map(int, rows[0])
        return position, queued + running

    # --- owners

    def claim(self, name: str, options: dict[str, Any], pixels: int, wanted_seconds: float) -> bool:
        """Claim a job for requests waiting in this process; False if a live owner has it."""
        return bool(
            self.database.execute(
                f"""INSERT INTO jobs (name, state, options, pixels, attempts, owner,
                    lease_until, wanted_until, created, updated)
                VALUES (?, 'running', ?, ?, 1, ?, now() + ?, now() + ?, now(), now())
                ON CONFLICT (name) DO UPDATE SET
                    state = 'running', owner = excluded.owner, attempts = 1, tiles_done = 0,
                    lease_until = excluded.lease_until, wanted_until = excluded.wanted_until,
                    problem = NULL, updated = now(),
                    spool = CASE WHEN jobs.state IN {OPEN} THEN jobs.spool END,
                    created = CASE WHEN jobs.state IN {OPEN} THEN jobs.created ELSE now() END
                WHERE jobs.state <> 'running' OR jobs.lease_until < now() OR jobs.{FAR}
                RETURNING name""",
                [name, json.dumps(options), pixels, self.owner, LEASE_SECONDS, wanted_seconds],
            )
        )

    def is_done(self, name: str) -> bool:
        """Tell whether a result was computed, by any process."""
        rows = self.database.execute("SELECT 1 FROM jobs WHERE name = ? AND state = 'done'", [name])
        return bool(rows)

    def rename(self, claim: Claim, name: str) -> Claim | None:
        """Rename a job that this process has claimed, with all its tickets.

        It was accepted by another version, whose results have other names.

        Returns
        -------
        The job under its new name, claimed; None if a job of that name is already open.
        """
        rows = self.database.execute(
            """INSERT INTO jobs (name, state, options, pixels, spool, attempts, owner, lease_until,
                created, updated)
            SELECT ?, 'running', options, pixels, spool, attempts, owner, now() + ?, created, now()
            FROM jobs WHERE name = ? AND owner = ? AND state = 'running'
            ON CONFLICT (name) DO UPDATE SET state = 'running', spool = excluded.spool,
                owner = excluded.owner, lease_until = excluded.lease_until, problem = NULL,
                attempts = excluded.attempts, tiles_done = 0, updated = now()
            WHERE jobs.state NOT IN ('queued', 'running') RETURNING name""",
            [name, LEASE_SECONDS, claim.name, self.owner],
        )
        if not rows:
            # The upload lets that job outlive the requests that wait for it.
            self.database.execute(
                f"UPDATE jobs SET spool = ? WHERE name = ? AND state IN {OPEN} AND spool IS NULL",
                [claim.spool, name],
            )
        self.database.execute("UPDATE tickets SET name = ? WHERE name = ?", [name, claim.name])
        self.database.execute(
            """UPDATE jobs SET state = 'cancelled', owner = NULL, updated = now()
            WHERE name = ? AND owner = ?""",
            [claim.name, self.owner],
        )
        return replace(claim, name=name) if rows else None

    def claim_next(self, max_pixels: int | None = None) -> Claim | None:
        """Claim the next queued job; with `max_pixels`, the smallest, if no larger than that."""
        order, limit = (TURN, "") if max_pixels is None else ("pixels", "AND pixels <= ?")
        foreign = self._foreign
        without_foreign = "AND replace(options, ?, '') = options " * len(foreign)
        rows = self.database.execute(
            f"""UPDATE jobs SET state = 'running', owner = ?, lease_until = now() + ?,
                attempts = attempts + 1, tiles_done = 0, updated = now()
            WHERE state = 'queued' AND name = (
                SELECT name FROM jobs WHERE state = 'queued' AND spool IS NOT NULL
                    AND {READY} {limit} {without_foreign}
                ORDER BY {order} LIMIT 1 FOR UPDATE SKIP LOCKED)
            RETURNING name, options, pixels, spool""",
            [self.owner, LEASE_SECONDS, *([] if max_pixels is None else [max_pixels]), *foreign],
        )
        if not rows:
            return None
        name, options, pixels, spool = rows[0]
        return Claim(name, json.loads(options), pixels, spool)

    def renew(self, name: str, tiles_done: int, tiles_total: int) -> bool:
        """Renew a job's lease and report its progress; False if this process no longer owns it."""
        return bool(
            self.database.execute(
                """UPDATE jobs SET lease_until = now() + ?, tiles_done = ?, tiles_total = ?,
                    updated = CASE WHEN tiles_done = ? THEN updated ELSE now() END
                WHERE name = ? AND owner = ? AND state = 'running' RETURNING name""",
                [LEASE_SECONDS, tiles_done, tiles_total, tiles_done, name, self.owner],
            )
        )

    def finish(
        self, name: str, problem: dict[str, Any] | None = None, tiles: int = 0
    ) -> str | None:
        """End a job that this process owns, as done or, with a problem, as failed.

        Parameters
        ----------
        tiles : its total number of tiles

        Returns
        -------
        Where its upload, which is no longer needed, is kept; None if there is none, or if this
        process does not own the job.
        """
        state = "failed" if problem else "done"
        rows = self.database.execute(
            """UPDATE jobs SET state = ?, problem = ?, owner = NULL, updated = now(),
                tiles_total = ?, tiles_done = CASE WHEN ? = 'done' THEN ? ELSE tiles_done END
            WHERE name = ? AND owner = ? AND state = 'running' RETURNING spool""",
            [
                *(state, json.dumps(problem) if problem else None),
                *(tiles, state, tiles, name, self.owner),
            ],
        )
        return rows[0][0] if rows else None

    def leave(self, name: str, unknown: Iterable[str]) -> None:
        """Requeue a job of this process for others, and claim no more jobs with such options.

        Parameters
        ----------
        unknown : which of its options only a newer version knows
        """
        rows = self.database.execute("SELECT options FROM jobs WHERE name = ?", [name])
        if rows:
            (options,) = rows[0]
            words = [json.dumps(word) for word in unknown]
            # The process that wrote the row may have encoded them differently.
            foreign = next((word for word in words if word in options), options)
            self._foreign = [*self._foreign, foreign][-MAX_FOREIGN:]
        self.requeue(name, counts=False)
