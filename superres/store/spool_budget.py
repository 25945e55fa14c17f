"""Limits the space for uploads of accepted jobs, in total and per client."""

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from superres.errors import Busy, UploadTooLarge
from superres.excess import Excess, compare

# No client may take more of the space than this, so that one cannot lock out all others.
CLIENT_SHARE = 1 / 4
# Space is freed whenever a job ends, which takes from a second to minutes.
FULL_RETRY_SECONDS = 30
SYNCHRONOUS = "send it without 'Prefer: respond-async'"


@dataclass
class KeptUpload:
    """What is known about an upload in the spool; `client` is empty for one found there."""

    size_bytes: int
    client: str
    is_whole: bool


class SpoolBudget:
    """Counts the space that uploads take, up to a total and a share of it per client.

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
        """Reserve space for an upload that is about to be written.

        Raises
        ------
        Busy
            There is no space until a job ends.
        UploadTooLarge
            There can never be enough space.
        """
        share = int(self.max_bytes * CLIENT_SHARE)
        if size_bytes > share:
            found, allowed = compare(size_bytes, share, "bytes")
            raise UploadTooLarge(
                f"The upload has {found}; an asynchronous one may have {allowed}: {SYNCHRONOUS}.",
                excess=Excess("job_upload_bytes", share, size_bytes),
            )
        with self._lock:
            if client and self._of_client[client] + size_bytes > share:
                found, allowed = compare(self._of_client[client] + size_bytes, share, "bytes")
                raise Busy(
                    f"With this one your queued uploads would have {found}; at most {allowed} are "
                    f"kept for one client: send it again later, or {SYNCHRONOUS}.",
                    FULL_RETRY_SECONDS,
                )
            if self.used_bytes + size_bytes > self.max_bytes:
                found, allowed = compare(self.used_bytes + size_bytes, self.max_bytes, "bytes")
                raise Busy(
                    f"With this one all queued uploads would have {found}; at most {allowed} are "
                    f"kept: send it again later, or {SYNCHRONOUS}.",
                    FULL_RETRY_SECONDS,
                )
            self._add(name, KeptUpload(size_bytes, client, is_whole=False))

    def settle(self, name: str) -> None:
        """Record that an upload has been written, and can be found in the spool."""
        with self._lock:
            if name in self._uploads:
                self._uploads[name].is_whole = True

    def give_back(self, name: str) -> None:
        """Release the space of an upload that is gone."""
        with self._lock:
            self._drop(name)

    def whole_names(self) -> set[str]:
        """Return the uploads that a later search will find, unless they are removed."""
        with self._lock:
            return {name for name, upload in self._uploads.items() if upload.is_whole}

    def recount(self, before: set[str], found: Mapping[str, int]) -> None:
        """Update the counts from a search, since other processes add and remove uploads too.

        Parameters
        ----------
        before : `whole_names` from before the search
        found : name of each existing upload -> its size in bytes
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
    """Make the error for a disk that is full."""
    return Busy(
        f"There is no room on the disk for more queued uploads; send it again later, or "
        f"{SYNCHRONOUS}.",
        FULL_RETRY_SECONDS,
    )
