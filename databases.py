"""Two engines for the jobs table: SQLite, which needs no server, and PostgreSQL."""

from collections.abc import Sequence

from database import Database
from migrations import Migration
from postgres_database import PostgresDatabase
from settings import Settings
from sqlite_database import SqliteDatabase

__all__ = ["Database", "PostgresDatabase", "SqliteDatabase", "open_database"]


def open_database(settings: Settings, schema: Sequence[Migration]) -> Database:
    """Return the settings' database; nothing is connected yet."""
    if settings.database_url:
        return PostgresDatabase(settings.database_url, schema)
    return SqliteDatabase(settings.state_dir / "jobs.sqlite3", schema)
