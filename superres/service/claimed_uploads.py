"""Opens the upload of a claimed job, and checks that it is intact and still accepted."""

import logging
from dataclasses import dataclass, field
from typing import BinaryIO

from superres.engines.lanes import Progress
from superres.errors import JobCancelled, UploadLost
from superres.images.image_codec import ImageHeader
from superres.images.options import Options
from superres.jobs.job_records import Claim
from superres.service.resources import Resources
from superres.store.doubts import Doubts
from superres.store.result_cache import hash_file
from superres.store.result_name import upload_key

# An upload that is missing, damaged or out of reach is retried after this; other jobs are computed
# meanwhile.
DOUBT_PAUSE_SECONDS = 5.0

logger = logging.getLogger(__name__)


@dataclass
class Fetching:
    """A claimed job whose upload is being fetched."""

    name: str
    pixels: int
    is_asynchronous: bool = True
    progress: Progress = field(default_factory=Progress)


class ClaimedUploads:
    """Opens the uploads of claimed jobs, on any thread.

    An upload that is missing or damaged may be available in a moment. It counts as lost only if
    that lasts for a minute.

    Attributes
    ----------
    fetching : the jobs whose uploads are being opened, by name
    """

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._spool = resources.spool
        self._doubts = Doubts()
        self.fetching: dict[str, Fetching] = {}

    def open(
        self, claim: Claim, options: Options, progress: Progress
    ) -> tuple[BinaryIO, ImageHeader]:
        """Return the upload of a claim, and its header.

        Raises
        ------
        UploadLost
            It is missing, or not what was sent; `is_lost` tells whether that is final.
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

    def is_lost(self, spool: str) -> bool:
        """Tell whether an upload has been missing or damaged for long enough to count as lost."""
        return self._doubts.is_settled(spool)
