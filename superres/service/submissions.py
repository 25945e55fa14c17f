"""Asynchronous uploads: accepted with a ticket, and cancelled with it."""

import logging

from superres.errors import Busy, NotStored, RateLimited
from superres.images.options import Options
from superres.service.charges import FREE, Charge
from superres.service.job_keeper import JobKeeper
from superres.service.local_jobs import LocalJobs
from superres.service.resources import Resources
from superres.service.sandboxed_codec import HasLeft
from superres.service.upload import Upload

logger = logging.getLogger(__name__)


class Submissions:
    """Queues jobs that survive this process, and withdraws them."""

    def __init__(self, resources: Resources, local_jobs: LocalJobs, keeper: JobKeeper) -> None:
        self._resources = resources
        self._table = resources.table
        self._spool = resources.spool
        self._local_jobs = local_jobs
        self._keeper = keeper

    def submit(
        self,
        upload: Upload,
        options: Options,
        charge: Charge = FREE,
        client: str = "",
        has_left: HasLeft = lambda: False,
    ) -> str:
        """Accept a job that survives this process, and return a ticket for it.

        Parameters
        ----------
        charge : is charged if no other request has asked for the result
        client : whose share of the spool the upload takes
        has_left : tells whether the client is gone; then nothing is queued

        Raises
        ------
        ServiceError
            The image is rejected, the queue is full, or nothing can be stored now.
        """
        try:
            self._resources.model_loader.refuse_unsound(options.mode)
            with self._resources.scheduler.checking_header():
                header = self._resources.read_header(upload.file, options, has_left)
            name = self._resources.result_name(upload.key, options)
            cost = self._resources.estimate_cost(name, header, options, upload.size_bytes)
            backlog = self._table.backlog(name)
            self._resources.spool_hold.check()

            def queue() -> tuple[str, bool]:
                try:
                    spool = self._spool.store(upload.file, backlog.table_id, client)
                except OSError as error:
                    logger.error("cannot spool an upload: %s", error.strerror)
                    raise NotStored("The upload cannot be stored now.") from None
                return self._queue(name, options, cost, spool)

            if backlog.has_it:
                ticket, is_new = queue()
                if is_new:  # the existing job has ended in the meantime
                    self._reserve_or_withdraw(ticket, cost, charge)
            else:
                self._resources.scheduler.check_room(cost, backlog.pixels, backlog.jobs)
                reservation = charge.reserve(cost)
                is_new = False
                try:
                    ticket, is_new = queue()
                finally:
                    if not is_new:
                        reservation.give_back()
        finally:
            upload.close()
        self._keeper.wake()
        return ticket

    def _queue(self, name: str, options: Options, cost: int, spool: str) -> tuple[str, bool]:
        """Queue the job of a spooled upload; return a ticket, and whether the job needs it."""
        # If the response is lost, the job may still have been queued: its upload stays until the
        # keeper finds that nobody wants it.
        try:
            ticket, kept = self._table.submit(name, options.as_dict(), cost, spool)
        except Busy:
            self._spool.remove(spool)
            raise
        if kept != spool:
            self._spool.remove(spool)
        return ticket, kept == spool

    def _reserve_or_withdraw(self, ticket: str, cost: int, charge: Charge) -> None:
        """Charge for a job that is already queued, or withdraw it."""
        try:
            charge.reserve(cost)
        except RateLimited:
            self.withdraw(ticket)
            raise

    def withdraw(self, ticket: str) -> bool:
        """Withdraw a ticket, and cancel its job if nobody else wants it; False if unknown."""
        name = self._table.withdraw(ticket)
        if name is None:
            return False
        cancelled = self._table.cancel_unless_wanted(name)
        if cancelled is not None:
            self._spool.remove(cancelled.spool)
            self._local_jobs.cancel(name)
        return True
