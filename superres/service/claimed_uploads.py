"""The upload of a claimed job: found, whole, and still of an accepted kind."""

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

# An upload in doubt is looked for again after this; others are computed meanwhile.
DOUBT_PAUSE_SECONDS = 5.0

logger = logging.getLogger(__name__)


@dataclass
class Fetching:
    """A claimed job whose upload is not there yet."""

    name: str
    is_asynchronous: bool = True
    progress: Progress = field(default_factory=Progress)


class ClaimedUploads:
    """Opens the uploads of claimed jobs, one after the other.

    An upload that cannot be found, or is damaged, may be there in a moment. It is lost when it
    was so again and again for a minute.

    Attributes
    ----------
    fetching : the job whose upload is being opened
    """

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._spool = resources.spool
        self._doubts = Doubts()
        self.fetching: Fetching | None = None

    def open(self, claim: Claim, options: Options) -> tuple[BinaryIO, ImageHeader]:
        """Return the upload of a claim, and its header.

        Raises
        ------
        UploadLost
            It is not there, or not what was sent; `is_lost` tells whether that is so for good.
        OSError, StoreDown
            It cannot be read now.
        ServiceError
            It is refused, or nobody needs it.
        """
        fetching = self.fetching = Fetching(claim.name)
        file = None
        try:
            file = self._spool.open(claim.spool)
            if file is None:
                # Lost, or over: the spool is emptied only after the result is stored.
                is_stored = self._resources.cache.contains(claim.name)
                raise JobCancelled("stored") if is_stored else UploadLost("The upload is lost.")
            if hash_file(file) != upload_key(claim.name):
                raise UploadLost("The upload is damaged.")
            self._doubts.end(claim.spool)
            if fetching.progress.cancelled:
                raise JobCancelled("It took too long; another process has it.")
            return file, self._resources.read_header(
                file, options, lambda: fetching.progress.cancelled
            )
        except BaseException:
            if file is not None:
                file.close()
            raise
        finally:
            self.fetching = None

    def is_lost(self, spool: str) -> bool:
        """Tell whether an upload that was just not found, or damaged, has been so for long."""
        return self._doubts.is_settled(spool)
