"""What was fetched from where: the content hash of each source, in the jobs table's database.

So all machines that share jobs know it, and a restarted service still does. Times in the table are
by the database's clock, since those of the machines may differ.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from superres.errors import DatabaseDown
from superres.sources.fetcher import Validators
from superres.sources.freshness import Freshness
from superres.sources.source_url import hash_address

# Used while the database is down.
REMEMBERED = 10_000
BATCH = 500
COLUMNS = "key, previous, has_alpha, location, etag, last_modified, directives, lifetime, validated"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceRecord:
    """What a source's server last sent.

    Attributes
    ----------
    key : SHA-256 of the file, in hex
    previous : of the file before that, if there was one
    has_alpha : whether the image has transparency
    validators : identify the file to its server
    freshness : how long it may be used
    """

    key: str
    previous: str | None
    has_alpha: bool
    validators: Validators
    freshness: Freshness


class Database(Protocol):
    """The jobs table's."""

    def execute(self, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run one statement, and return its rows; raise DatabaseDown if that is impossible."""


class SourceRecords:
    """Records of sources by their addresses; while the database is down, those seen last."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._remembered: OrderedDict[str, SourceRecord] = OrderedDict()

    def find(self, source: str) -> SourceRecord | None:
        """Return what is known of a source."""
        address = hash_address(source)
        try:
            rows = self._database.execute(
                f"SELECT {COLUMNS}, now() FROM sources WHERE address = ?", [address]
            )
        except DatabaseDown:
            with self._lock:
                return self._remembered.get(address)
        if not rows:
            return None
        key, previous, has_alpha, location, etag, modified, *rest = rows[0]
        directives, lifetime, validated, now = rest
        validators = Validators(location, etag, modified)
        freshness = Freshness(time.time() - (now - validated), lifetime, directives)
        record = SourceRecord(key, previous, bool(has_alpha), validators, freshness)
        self._remember(address, record)
        return record

    def save(self, source: str, record: SourceRecord) -> None:
        """Store what is known of a source, unless it has been asked again since."""
        address = hash_address(source)
        self._remember(address, record)
        values = (
            record.key,
            record.previous,
            int(record.has_alpha),
            record.validators.location,
            record.validators.etag,
            record.validators.last_modified,
            record.freshness.directives,
            record.freshness.lifetime,
            record.freshness.age(time.time()),
        )
        changes = ", ".join(f"{name} = excluded.{name}" for name in COLUMNS.split(", "))
        try:
            self._database.execute(
                f"""INSERT INTO sources (address, {COLUMNS})
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, now() - ?)
                ON CONFLICT (address) DO UPDATE SET {changes}
                WHERE sources.validated <= excluded.validated OR sources.validated > now()""",
                [address, *values],
            )
        except DatabaseDown as error:
            logger.error("what was fetched is not recorded: %s", error.__cause__ or error)

    def remove(self, source: str) -> None:
        """Forget a source."""
        address = hash_address(source)
        with self._lock:
            self._remembered.pop(address, None)
        try:
            self._database.execute("DELETE FROM sources WHERE address = ?", [address])
        except DatabaseDown as error:
            logger.error("a source is not forgotten: %s", error.__cause__ or error)

    def purge(self, seconds: float) -> None:
        """Delete records that were last validated so long ago.

        If there are many, only some; the next purge continues.
        """
        self._database.execute(
            f"""DELETE FROM sources WHERE address IN (SELECT address FROM sources
            WHERE validated < now() - ? ORDER BY validated LIMIT {BATCH} FOR UPDATE SKIP LOCKED)""",
            [seconds],
        )

    def _remember(self, address: str, record: SourceRecord) -> None:
        with self._lock:
            self._remembered[address] = record
            self._remembered.move_to_end(address)
            if len(self._remembered) > REMEMBERED:
                self._remembered.popitem(last=False)
