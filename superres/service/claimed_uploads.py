"""From a claim to an open upload: whether it can be computed here, is intact, still accepted."""

import logging
from dataclasses import dataclass, field
from typing import BinaryIO

from superres.engines.lanes import Progress
from superres.errors import JobCancelled, UploadLost
from superres.images.options import Options, find_unknown
from superres.images.picture import ImageHeader
from superres.jobs.job_records import Claim
from superres.service.job import short_job_id
from superres.service.job_claims import describe
from superres.service.resources import Resources
from superres.store.doubts import Doubts
from superres.store.result_name import hash_file, upload_key

# An upload that is missing, damaged or out of reach is retried after this; other jobs are computed
# meanwhile.
DOUBT_PAUSE_SECONDS = 5.0

logger = logging.getLogger(__name__)


@dataclass
class Fetching:
    """A claimed job whose upload is being fetched."""

    name: str
    pixels: int
    progress: Progress = field(default_factory=Progress)


class ClaimedUploads:
    """Takes claims to jobs whose uploads are open, on any thread.

    An upload that is missing or damaged may be available in a moment. It counts as lost only if
    that lasts for a minute.

    Attributes
    ----------
    fetching : the jobs whose uploads are being opened, by name
    """

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._spool = resources.spool
        self._table = resources.table
        self._doubts = Doubts()
        self.fetching: dict[str, Fetching] = {}

    def open(
        self, claim: Claim, options: Options, progress: Progress
    ) -> tuple[BinaryIO, ImageHeader]:
        """Return the upload of a claim, and its header.

        Raises
        ------
        UploadLost
            It is missing, or not what was sent: see `doubt`.
        OSError, StoreDown
            It cannot be read now.
        ServiceError
            It is rejected; JobCancelled if its result is already stored.
        """
        file = None
        try:
            file = self._spool.open(claim.spool)
            if file is None:
                # Lost, or already done: an upload is removed only after its result is stored.
                is_stored = self._resources.cache.contains(claim.name)
                raise JobCancelled("stored") if is_stored else UploadLost("The upload is lost.")
            if hash_file(file) != upload_key(claim.name):
                raise UploadLost("The upload is damaged.")
            self._doubts.end(claim.spool)
            return file, self._resources.read_header(file, options, lambda: progress.cancelled)
        except BaseException:
            if file is not None:
                file.close()
            raise

    def doubt(self, claim: Claim, error: UploadLost) -> None:
        """Fail a job whose upload has been missing or damaged for long; otherwise requeue it."""
        if self._doubts.is_settled(claim.spool):
            self._spool.remove(self._table.finish(claim.name, describe(error)))
            return
        logger.warning("%s: %s It will be retried.", short_job_id(claim.name), error.message)
        self._table.requeue(claim.name, counts=False, pause_seconds=DOUBT_PAUSE_SECONDS)

    def rename(self, claim: Claim) -> tuple[Claim, Options] | None:
        """Return a claim under the name that its result has in this version, and its options.

        Returns
        -------
        None if the claim was given up: another process is needed, or its result has a job already.

        Raises
        ------
        NotReady
            The model of its mode cannot be used now.
        """
        loader = self._resources.model_loader
        unknown = find_unknown(claim.options, loader.modes)
        if unknown:
            logger.warning("jobs with %s are left to a newer version", ", ".join(unknown))
            self._table.leave(claim.name, unknown)
            return None
        options = Options(**claim.options)
        name = self._resources.result_name(upload_key(claim.name), options)
        loader.refuse_unsound(options.mode)
        mine = claim if name == claim.name else self._table.rename(claim, name)
        return (mine, options) if mine else None
