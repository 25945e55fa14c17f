"""Two engines for the jobs table: SQLite, which needs no server, and PostgreSQL."""

from collections.abc import Sequence

from superres.jobs.database import Database
from superres.jobs.migrations import Migration
from superres.jobs.postgres_database import PostgresDatabase
from superres.jobs.sqlite_database import SqliteDatabase
from superres.settings import Settings


def open_database(settings: Settings, schema: Sequence[Migration]) -> Database:
    """Return the database named by the settings, not connected yet."""
    if settings.database_url:
        return PostgresDatabase(settings.database_url, schema)
    return SqliteDatabase(settings.state_dir / "jobs.sqlite3", schema)
