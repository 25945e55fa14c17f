"""What the jobs table says about a job."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class JobStatus:
    """What the table says about a ticket's job.

    Attributes
    ----------
    state : queued, running, done, failed or cancelled
    position : number of queued jobs ahead of it, counted up to `jobs.MAX_POSITION`
    pixels_ahead : input pixels to compute until it is done, its own included; a lower bound if
        not all jobs ahead are counted
    problem : of a failed job: status, code, message
    created, updated : seconds since the epoch
    """

    name: str
    state: str
    options: dict[str, Any]
    pixels: int
    tiles_done: int
    tiles_total: int
    position: int
    pixels_ahead: int
    problem: dict[str, Any] | None
    created: float
    updated: float


@dataclass(frozen=True)
class Backlog:
    """The jobs with an upload that are queued or running.

    Attributes
    ----------
    has_it : whether the requested result is among them
    table_id : prefix of the names of their uploads
    """

    jobs: int
    pixels: int
    has_it: bool
    table_id: str


@dataclass(frozen=True)
class Claim:
    """A queued job that this process has taken; `spool` is where its upload is kept."""

    name: str
    options: dict[str, Any]
    pixels: int
    spool: str


@dataclass(frozen=True)
class Cancelled:
    """A job that was just cancelled; `spool` is where its upload is kept, if anywhere."""

    spool: str | None
