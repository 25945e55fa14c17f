"""Asynchronous requests: `Prefer: respond-async` (RFC 7240) and the routes below /api/jobs."""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from flask import Flask, Request, Response, g, jsonify, request
from werkzeug.http import parse_list_header

from superres.errors import ClientLeft, DatabaseDown, JobNotFound, StoreDown
from superres.images.options import Options
from superres.jobs.job_records import JobStatus
from superres.jobs.jobs import TICKET_PATTERN
from superres.service.charges import Charge
from superres.service.job import short_job_id
from superres.service.runner import Result, Runner
from superres.service.upload import Upload
from superres.web.addresses import Addresses
from superres.web.cache_policy import set_cache_policy
from superres.web.client_limit import client_name
from superres.web.problems import problem_members
from superres.web.uploads import has_left

MAX_LONG_POLL_SECONDS = 30
POLL_SECONDS = 0.2
WAIT_PATTERN = re.compile(r"[0-9]{1,6}")
OPEN_STATES = frozenset({"queued", "running"})
# Decoding, and encoding and storing a PNG, take as long as computing this share of the pixels.
ENCODING_SHARE = 0.02
MAX_RETRY_SECONDS = 30


@dataclass(frozen=True)
class Preference:
    """What a request's Prefer header asks for; unknown preferences are ignored."""

    respond_async: bool = False
    wait_seconds: int | None = None

    def applied(self) -> str:
        """Return the Preference-Applied header of a 202."""
        waited = [] if self.wait_seconds is None else [f"wait={self.wait_seconds}"]
        return ", ".join(["respond-async", *waited])


def read_preference(request: Request) -> Preference:
    """Read the Prefer headers."""
    asked: dict[str, str] = {}
    for item in parse_list_header(request.headers.get("Prefer", "")):
        name, _, value = item.split(";")[0].partition("=")
        # The first of several equal preferences counts.
        asked.setdefault(name.strip().lower(), value.strip().strip('"'))
    wait = asked.get("wait", "")
    return Preference("respond-async" in asked, int(wait) if WAIT_PATTERN.fullmatch(wait) else None)


def is_open(status: JobStatus) -> bool:
    """Tell whether a job may still change."""
    return status.state in OPEN_STATES


def format_time(seconds: float) -> str:
    """Format seconds since the epoch as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def accepted_status(name: str, options: Options) -> JobStatus:
    """Return the status of a job that was just queued."""
    now = time.time()
    return JobStatus(
        name=name,
        state="queued",
        options=options.as_dict(),
        pixels=0,
        tiles_done=0,
        tiles_total=0,
        position=0,
        pixels_ahead=0,
        problem=None,
        created=now,
        updated=now,
    )


class JobRoutes:
    """Accepts asynchronous uploads and reports their status."""

    def __init__(self, runner: Runner, addresses: Addresses) -> None:
        self._runner = runner
        self._addresses = addresses

    def install(self, app: Flask) -> None:
        """Register the routes."""
        app.get("/api/jobs/<ticket>")(self.show)
        app.delete("/api/jobs/<ticket>")(self.withdraw)

    def accept(
        self, upload: Upload, options: Options, preference: Preference, charge: Charge
    ) -> Result | Response:
        """Queue an upload; return its result if it is ready in time, otherwise a 202."""
        found = self._runner.find(upload.key, options)
        if found is not None:
            return found
        ticket = self._runner.submissions.submit(
            upload, options, charge, client_name(), lambda: has_left(request)
        )
        name = self._runner.result_name(upload.key, options)
        g.job = short_job_id(name)
        if preference.wait_seconds:
            self._wait(
                min(preference.wait_seconds, self._runner.settings.max_sync_seconds),
                lambda: self._glance(ticket)[0] in OPEN_STATES,
            )
            if has_left(request):
                self._runner.submissions.withdraw(ticket)  # nobody else has it
                raise ClientLeft("The client has closed the connection.")
        # From here on, returning the ticket is more useful than an error.
        try:
            status = self._find(ticket)
        except DatabaseDown:
            status = accepted_status(name, options)
        if preference.wait_seconds and status.state == "done":
            with suppress(StoreDown):
                if result := self._runner.open_result(status.name):
                    return replace(result, hit=False)
        response = self._answer(ticket, status)
        response.status_code = 202
        response.headers["Location"] = self._addresses.job(ticket)
        response.headers["Preference-Applied"] = preference.applied()
        return response

    def show(self, ticket: str) -> Response:
        """Respond with a job's status; `Prefer: wait=N` waits until it changes."""
        before = status = self._find(ticket)
        wait_seconds = read_preference(request).wait_seconds
        if wait_seconds and is_open(before):
            self._wait(
                min(wait_seconds, MAX_LONG_POLL_SECONDS),
                lambda: self._glance(ticket) == (before.state, before.tiles_done),
            )
            status = self._find(ticket)
        response = self._answer(ticket, status)
        if wait_seconds:
            response.headers["Preference-Applied"] = f"wait={wait_seconds}"
        return response

    def withdraw(self, ticket: str) -> Response:
        """Withdraw a ticket."""
        if not TICKET_PATTERN.fullmatch(ticket) or not self._runner.submissions.withdraw(ticket):
            raise JobNotFound("There is no such job; it may have expired.")
        set_cache_policy("live_status")
        return Response(status=204)

    def _wait(self, seconds: float, condition: Callable[[], bool]) -> None:
        """Wait while a condition holds and the client is connected, if there is a free slot."""
        deadline = time.monotonic() + seconds
        runner = self._runner
        with runner.scheduler.long_poll() as has_slot:
            while has_slot and time.monotonic() < deadline:
                with suppress(DatabaseDown):  # which may be back in time
                    if not condition():
                        return
                if has_left(request) or runner.is_draining:
                    return
                time.sleep(POLL_SECONDS)

    def _find(self, ticket: str) -> JobStatus:
        status = self._runner.jobs.find(ticket) if TICKET_PATTERN.fullmatch(ticket) else None
        if status is None:
            raise JobNotFound("There is no such job; it may have expired.")
        return status

    def _glance(self, ticket: str) -> tuple[str, int]:
        return self._runner.jobs.glance(ticket) or ("expired", 0)

    def _answer(self, ticket: str, status: JobStatus) -> Response:
        set_cache_policy("live_status")
        runner = self._runner
        seconds_left = 0.0
        if is_open(status):
            work = status.pixels_ahead + ENCODING_SHARE * status.pixels
            seconds_left = work * runner.model_loader.get().speed.now
        problem = None
        if status.state == "failed" and status.problem is not None:
            problem = problem_members(**status.problem)
        is_stored = status.state == "done"
        with suppress(StoreDown):
            is_stored = is_stored and runner.cache.contains(status.name)
        done, total = status.tiles_done, status.tiles_total
        response = jsonify(
            id=ticket,
            status_url=self._addresses.job(ticket),
            state=status.state,
            progress=1.0 if status.state == "done" else round(done / total, 4) if total else 0.0,
            tiles_done=done,
            tiles_total=total,
            position=status.position,
            eta_seconds=round(seconds_left, 1),
            # Null if the result has been evicted since: send the image again.
            result=self._addresses.result(status.name) if is_stored else None,
            problem=problem,
            created=format_time(status.created),
            updated=format_time(status.updated),
        )
        if is_open(status):
            response.headers["Retry-After"] = str(
                min(max(round(seconds_left), 1), MAX_RETRY_SECONDS)
            )
        return response
