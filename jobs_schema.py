"""The tables of the jobs, and how their owners are named."""

import os
import secrets
import socket

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS jobs (
        name TEXT PRIMARY KEY, state TEXT NOT NULL, options TEXT NOT NULL,
        pixels BIGINT NOT NULL, spool TEXT,
        tiles_done INTEGER NOT NULL DEFAULT 0, tiles_total INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0, owner TEXT,
        lease_until DOUBLE PRECISION NOT NULL DEFAULT 0,
        wanted_until DOUBLE PRECISION NOT NULL DEFAULT 0, problem TEXT,
        created DOUBLE PRECISION NOT NULL, updated DOUBLE PRECISION NOT NULL)""",
    # Not a partial index: SQLite takes one only where a query repeats its very condition.
    "CREATE INDEX IF NOT EXISTS jobs_state ON jobs (state)",
    "CREATE INDEX IF NOT EXISTS jobs_updated ON jobs (updated)",
    """CREATE TABLE IF NOT EXISTS tickets (
        ticket TEXT PRIMARY KEY, name TEXT NOT NULL, withdrawn INTEGER NOT NULL DEFAULT 0,
        created DOUBLE PRECISION NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS tickets_name ON tickets (name)",
    "CREATE INDEX IF NOT EXISTS tickets_created ON tickets (created)",
)


def owner_prefix(pid: int) -> str:
    """Return how the names of all owners begin that were processes of this number here."""
    return f"{socket.gethostname()}:{pid}:"


def make_owner() -> str:
    """Return a name for this process that no other one has or had."""
    return owner_prefix(os.getpid()) + secrets.token_hex(4)
