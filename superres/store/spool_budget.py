"""How much room uploads of accepted jobs may take, in all and for one client."""

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from superres.disk import MEGABYTE
from superres.errors import Busy, UploadTooLarge

# Nobody takes more of the room than this, so that one client cannot keep all others out.
CLIENT_SHARE = 1 / 4
# Room comes back whenever a job ends, which takes from a second to minutes.
FULL_RETRY_SECONDS = 30
SYNCHRONOUS = "send it without 'Prefer: respond-async'"


@dataclass
class KeptUpload:
    """What is known of an upload in the spool; the client of one found there is not."""

    size_bytes: int
    client: str
    is_whole: bool


class SpoolBudget:
    """Counts what uploads take, up to a bound for all and a share of it for each client.

    Parameters
    ----------
    max_bytes : of all uploads together
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self._uploads: dict[str, KeptUpload] = {}
        self._of_client: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, name: str, size_bytes: int, client: str) -> None:
        """Hold room for an upload that is about to be written.

        Raises
        ------
        Busy
            There is none before a job ends.
        UploadTooLarge
            There never is.
        """
        share = int(self.max_bytes * CLIENT_SHARE)
        if size_bytes > share:
            raise UploadTooLarge(
                f"An upload that waits for its job may have {share / MEGABYTE:.0f} MB; "
                f"{SYNCHRONOUS}."
            )
        with self._lock:
            if client and self._of_client[client] + size_bytes > share:
                raise Busy(
                    "Your uploads that wait for their jobs take as much room as one client may "
                    f"have; send it again later, or {SYNCHRONOUS}.",
                    FULL_RETRY_SECONDS,
                )
            if self.used_bytes + size_bytes > self.max_bytes:
                raise full()
            self._add(name, KeptUpload(size_bytes, client, is_whole=False))

    def settle(self, name: str) -> None:
        """Note that an upload is written, and can be found where it is kept."""
        with self._lock:
            if name in self._uploads:
                self._uploads[name].is_whole = True

    def give_back(self, name: str) -> None:
        """Give back the room of an upload that is gone."""
        with self._lock:
            self._drop(name)

    def whole_names(self) -> set[str]:
        """Return the uploads that whoever looks from now on finds, unless they are removed."""
        with self._lock:
            return {name for name, upload in self._uploads.items() if upload.is_whole}

    def recount(self, before: set[str], found: Mapping[str, int]) -> None:
        """Take over what was found, since other processes keep and remove uploads too.

        Parameters
        ----------
        before : `whole_names` from before the search
        found : name of each upload that is there -> its bytes
        """
        with self._lock:
            for name in before - found.keys():
                self._drop(name)
            for name in found.keys() - self._uploads.keys() - before:
                self._add(name, KeptUpload(found[name], client="", is_whole=True))

    def _add(self, name: str, upload: KeptUpload) -> None:
        self._uploads[name] = upload
        self.used_bytes += upload.size_bytes
        self._of_client[upload.client] += upload.size_bytes

    def _drop(self, name: str) -> None:
        upload = self._uploads.pop(name, None)
        if upload is not None:
            self.used_bytes -= upload.size_bytes
            self._of_client[upload.client] -= upload.size_bytes
            if self._of_client[upload.client] <= 0:
                del self._of_client[upload.client]


def full() -> Busy:
    """Make the error of a spool that has no room now."""
    return Busy(
        "There is no room on the disk for more uploads that wait for their jobs; send it again "
        f"later, or {SYNCHRONOUS}.",
        FULL_RETRY_SECONDS,
    )
