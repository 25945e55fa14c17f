"""Makes previews of uploads, without the network and its queue, and without storing anything."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from superres.errors import Busy, ClientLeft, JobCancelled
from superres.images.options import CLEANING_SCALE, DEFAULT_OPTIONS, Options
from superres.images.preview import make_preview
from superres.service.charges import FREE, Charge
from superres.service.cost_estimate import estimate_cost
from superres.service.memory_estimate import preview_bytes
from superres.service.memory_queue import MemoryClaim
from superres.service.resources import Resources
from superres.service.sandboxed_codec import HasLeft, share_picture
from superres.service.upload import Upload

OWN_SIZE = Options(scale=CLEANING_SCALE)
# Images that are computed may hold all memory for minutes; somebody is looking at the page.
PATIENCE_SECONDS = 10


class Previews:
    """Makes previews."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    def make(
        self,
        upload: Upload,
        max_side: int,
        has_left: HasLeft = lambda: False,
        charge: Charge = FREE,
    ) -> memoryview:
        """Return an upload as PNG: see `make_preview`; the upload is closed.

        Parameters
        ----------
        charge : is charged as for another form of a stored result, once there is memory

        Raises
        ------
        ServiceError
            The image is rejected, or there is no memory for it now.
        """
        resources = self._resources
        try:
            with resources.scheduler.checking_header():
                header = resources.read_header(upload.file, OWN_SIZE, has_left)
            cost = estimate_cost(header, OWN_SIZE, upload.size_bytes, needs_network=False)
            memory_bytes = preview_bytes(header, upload.size_bytes)
            claim = MemoryClaim(memory_bytes, memory_bytes, cost)
            with resources.scheduler.waiting_request(), self._hold(claim, has_left):
                charge.reserve(cost)
                picture = resources.codec.decode(upload.file, header, has_left)
                preview = make_preview(picture, max_side)
                shared = share_picture(preview, DEFAULT_OPTIONS)
                del picture, preview
                return resources.codec.encode(shared, DEFAULT_OPTIONS, has_left)
        finally:
            upload.close()

    @contextmanager
    def _hold(self, claim: MemoryClaim, has_left: HasLeft) -> Iterator[None]:
        """Wait for memory, but not for long; then hold it until the block ends."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        try:
            with self._resources.memory.hold(
                claim, lambda: has_left() or time.monotonic() > deadline
            ):
                yield
        except JobCancelled:
            if has_left():
                raise ClientLeft("The client has closed the connection.") from None
            raise Busy(
                "Images that are being computed take all memory; try again later.",
                PATIENCE_SECONDS,
            ) from None
