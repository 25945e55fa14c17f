"""Migrates tables from version to version, even while processes of an older version use them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from superres.errors import ConfigError

Fetch = Callable[[str], list[tuple[Any, ...]]]

VERSION_TABLE = """CREATE TABLE IF NOT EXISTS schema_version (
    one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL,
    oldest_code INTEGER NOT NULL)"""


@dataclass(frozen=True)
class Migration:
    """The step to a version of the tables; it is taken once, in one transaction.

    Attributes
    ----------
    version : 1, 2, ... without a gap
    oldest_code : the oldest version whose code works with the tables after the step; unchanged if
        the step only adds tables, indexes, and columns with defaults
    sqlite, postgres : the statements, in each engine's dialect
    """

    version: int
    oldest_code: int
    sqlite: tuple[str, ...]
    postgres: tuple[str, ...]


def check_version(found: tuple[int, int] | None, steps: Sequence[Migration]) -> bool:
    """Tell whether tables with this version and oldest code need no migration.

    Raises
    ------
    ConfigError
        A newer release has changed them incompatibly.
    """
    if found is None:
        return False
    version, oldest_code = found
    known = steps[-1].version
    if oldest_code > known:
        raise ConfigError(
            f"The jobs table is of a newer release (version {version}, for releases that support "
            f"{oldest_code}); this release supports version {known}. Start the newer release, or "
            "give this one its own table (SR_DATABASE_URL, SR_STATE_DIR)."
        )
    return version >= known


def migrate(
    fetch: Fetch, steps: Sequence[Migration], engine: str, is_there: bool, begin: Sequence[str]
) -> None:
    """Migrate the tables to the version that this code expects, if needed, in one transaction.

    Parameters
    ----------
    is_there : whether the tables have a version
    begin : statements that begin the transaction
    """
    # A full disk rejects a transaction, and tables that are up to date need none.
    found = fetch("SELECT version, oldest_code FROM schema_version") if is_there else []
    if not steps or check_version(found[0] if found else None, steps):
        return
    for statement in begin:
        fetch(statement)
    take_steps(fetch, steps, engine)
    fetch("COMMIT")


def take_steps(fetch: Fetch, steps: Sequence[Migration], engine: str) -> None:
    """Migrate the tables to the version that this code expects; the caller holds a transaction.

    Tables without a version are of the first release, or do not exist yet: the first step creates
    only what is missing.
    """
    fetch(VERSION_TABLE)
    found = fetch("SELECT version, oldest_code FROM schema_version")
    version, oldest_code = found[0] if found else (0, 0)
    if check_version((version, oldest_code), steps):
        return
    for step in steps:
        if step.version > version:
            for statement in getattr(step, engine):
                fetch(statement)
            oldest_code = max(oldest_code, step.oldest_code)
    fetch(
        f"INSERT INTO schema_version VALUES (1, {steps[-1].version}, {oldest_code}) ON CONFLICT"
        " (one) DO UPDATE SET version = excluded.version, oldest_code = excluded.oldest_code"
    )
