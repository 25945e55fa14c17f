"""The schema of the jobs table, and the names of job owners."""

import os
import secrets
import socket

from superres.jobs.migrations import Migration

# Queued jobs: the smallest first, and each second of waiting is worth this many input pixels. All
# age at the same rate, so the order never changes, and an index can keep it.
PIXELS_A_SECOND_OF_WAITING = 20_000
TURN = f"(pixels + created * {PIXELS_A_SECOND_OF_WAITING})"

# Tables without a version are these: earlier releases created them on every connection.
FIRST = (
    """CREATE TABLE IF NOT EXISTS jobs (
        name TEXT PRIMARY KEY, state TEXT NOT NULL, options TEXT NOT NULL,
        pixels BIGINT NOT NULL, spool TEXT,
        tiles_done INTEGER NOT NULL DEFAULT 0, tiles_total INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0, owner TEXT,
        lease_until DOUBLE PRECISION NOT NULL DEFAULT 0,
        wanted_until DOUBLE PRECISION NOT NULL DEFAULT 0, problem TEXT,
        created DOUBLE PRECISION NOT NULL, updated DOUBLE PRECISION NOT NULL)""",
    # Not a partial index: SQLite uses one only if the query repeats its exact condition.
    "CREATE INDEX IF NOT EXISTS jobs_state ON jobs (state)",
    "CREATE INDEX IF NOT EXISTS jobs_updated ON jobs (updated)",
    """CREATE TABLE IF NOT EXISTS tickets (
        ticket TEXT PRIMARY KEY, name TEXT NOT NULL, withdrawn INTEGER NOT NULL DEFAULT 0,
        created DOUBLE PRECISION NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS tickets_name ON tickets (name)",
    "CREATE INDEX IF NOT EXISTS tickets_created ON tickets (created)",
)

# Totals that would need all rows are kept separately, by triggers, so that they stay right whatever
# writes the rows, even a process of an older version. In PostgreSQL connections use different
# rows, so that they do not wait for each other's commits.
TOTALS = (
    """CREATE TABLE totals (
        what TEXT NOT NULL, spooled INTEGER NOT NULL, slot INTEGER NOT NULL,
        number BIGINT NOT NULL, pixels BIGINT NOT NULL, PRIMARY KEY (what, spooled, slot))""",
    """INSERT INTO totals
        SELECT state, CASE WHEN spool IS NULL THEN 0 ELSE 1 END, 0, count(*), sum(pixels)
        FROM jobs GROUP BY 1, 2""",
    "INSERT INTO totals SELECT 'tickets', 0, 0, count(*), 0 FROM tickets",
    # jobs_turn replaces jobs_state, which a process of the first release may create again.
    "DROP INDEX IF EXISTS jobs_state",
    f"CREATE INDEX jobs_turn ON jobs (state, {TURN})",
    # While many large jobs wait, the smallest is claimed alongside them.
    "CREATE INDEX jobs_size ON jobs (state, pixels)",
    "CREATE INDEX jobs_spool ON jobs (spool)",
    # The table's ID, for what is kept on its behalf elsewhere.
    "CREATE TABLE identity (one INTEGER PRIMARY KEY CHECK (one = 1), id TEXT NOT NULL)",
    # Which spool holds the jobs' uploads: see spool_hold.py.
    """CREATE TABLE spool_hold (
        one INTEGER PRIMARY KEY CHECK (one = 1), spool TEXT NOT NULL, place TEXT NOT NULL,
        renewed DOUBLE PRECISION NOT NULL)""",
)


def sqlite_count(what: str, spooled: str, pixels: str, sign: str) -> str:
    """Return the statement of a SQLite trigger that counts a row."""
    return f"""INSERT INTO totals VALUES ({what}, {spooled}, 0, {sign}1, {sign}{pixels})
        ON CONFLICT (what, spooled, slot) DO UPDATE SET
            number = number + excluded.number, pixels = pixels + excluded.pixels;"""


def sqlite_job(row: str, sign: str) -> str:
    """Return the statement that counts a row of the jobs table."""
    return sqlite_count(f"{row}.state", f"({row}.spool IS NOT NULL)", f"{row}.pixels", sign)


SQLITE_TRIGGERS = (
    f"CREATE TRIGGER jobs_in AFTER INSERT ON jobs BEGIN {sqlite_job('NEW', '')} END",
    f"CREATE TRIGGER jobs_out AFTER DELETE ON jobs BEGIN {sqlite_job('OLD', '-')} END",
    f"""CREATE TRIGGER jobs_change AFTER UPDATE OF state, pixels, spool ON jobs
        WHEN OLD.state <> NEW.state OR OLD.pixels <> NEW.pixels
            OR (OLD.spool IS NULL) <> (NEW.spool IS NULL)
        BEGIN {sqlite_job("OLD", "-")} {sqlite_job("NEW", "")} END""",
    f"""CREATE TRIGGER tickets_in AFTER INSERT ON tickets
        BEGIN {sqlite_count("'tickets'", "0", "0", "")} END""",
    f"""CREATE TRIGGER tickets_out AFTER DELETE ON tickets
        BEGIN {sqlite_count("'tickets'", "0", "0", "-")} END""",
)


def postgres_function(table: str, kind: str, pixels: str) -> str:
    """Return the function that counts a statement's rows, with one update per kind of row.

    Not row by row, and in a fixed order: two statements that change many rows would deadlock if
    each row locked its job and then a total.
    """
    old = f"SELECT {kind}, -count(*) AS number, -sum({pixels}) AS pixels FROM before GROUP BY 1, 2"
    new = f"SELECT {kind}, count(*) AS number, sum({pixels}) AS pixels FROM after GROUP BY 1, 2"

    def add(rows: str) -> str:
        return f"""INSERT INTO totals
            SELECT what, spooled, mod(pg_backend_pid(), 16), sum(number), sum(pixels)
            FROM ({rows}) AS changes GROUP BY what, spooled
            HAVING sum(number) <> 0 OR sum(pixels) <> 0 ORDER BY what, spooled
            ON CONFLICT (what, spooled, slot) DO UPDATE SET
                number = totals.number + excluded.number,
                pixels = totals.pixels + excluded.pixels;"""

    return f"""CREATE FUNCTION count_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF TG_OP = 'INSERT' THEN {add(new)}
        ELSIF TG_OP = 'DELETE' THEN {add(old)}
        ELSE {add(f"{old} UNION ALL {new}")} END IF;
        RETURN NULL; END $$"""


def postgres_trigger(table: str, event: str, rows: str) -> str:
    """Return the trigger that makes a table count one kind of change."""
    return f"""CREATE TRIGGER {table}_{event} AFTER {event} ON {table} REFERENCING {rows}
        FOR EACH STATEMENT EXECUTE FUNCTION count_{table}()"""


OLD_ROWS, NEW_ROWS = "OLD TABLE AS before", "NEW TABLE AS after"
POSTGRES_TRIGGERS = (
    postgres_function(
        "jobs", "state AS what, CASE WHEN spool IS NULL THEN 0 ELSE 1 END AS spooled", "pixels"
    ),
    postgres_function("tickets", "'tickets' AS what, 0 AS spooled", "0"),
    postgres_trigger("jobs", "INSERT", NEW_ROWS),
    postgres_trigger("jobs", "DELETE", OLD_ROWS),
    postgres_trigger("jobs", "UPDATE", f"{OLD_ROWS} {NEW_ROWS}"),
    postgres_trigger("tickets", "INSERT", NEW_ROWS),
    postgres_trigger("tickets", "DELETE", OLD_ROWS),
)

# What was fetched from addresses that GETs name: see source_records.py.
SOURCES = (
    """CREATE TABLE IF NOT EXISTS sources (
        address TEXT PRIMARY KEY, key TEXT NOT NULL, previous TEXT, has_alpha INTEGER NOT NULL,
        location TEXT NOT NULL, etag TEXT NOT NULL, last_modified TEXT NOT NULL,
        directives TEXT NOT NULL, validated DOUBLE PRECISION NOT NULL,
        lifetime DOUBLE PRECISION NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS sources_validated ON sources (validated)",
)

SCHEMA = (
    Migration(version=1, oldest_code=1, sqlite=FIRST, postgres=FIRST),
    Migration(
        version=2,
        oldest_code=1,
        sqlite=(
            *TOTALS,
            *SQLITE_TRIGGERS,
            "INSERT INTO identity VALUES (1, lower(hex(randomblob(8))))",
        ),
        postgres=(
            # No row may change between the count and the triggers; reads still work.
            "LOCK TABLE jobs, tickets IN SHARE ROW EXCLUSIVE MODE",
            *TOTALS,
            *POSTGRES_TRIGGERS,
            """INSERT INTO identity
                VALUES (1, substr(md5(random()::text || clock_timestamp()::text), 1, 16))""",
        ),
    ),
    Migration(version=3, oldest_code=1, sqlite=SOURCES, postgres=SOURCES),
)


# Created by the master and inherited by the workers that it forks, even after it rereads its
# settings. Containers may have the same host name and the same process IDs.
MASTER = secrets.token_hex(8)


def owner_prefix(pid: int) -> str:
    """Return the prefix of the names of all owners with this process ID and master."""
    return f"{socket.gethostname()}:{MASTER}:{pid}:"


def make_owner() -> str:
    """Return a name for this process that no other process has or had."""
    return owner_prefix(os.getpid()) + secrets.token_hex(4)
