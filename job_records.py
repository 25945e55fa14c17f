"""What the jobs table says of a job."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class JobStatus:
    """What the table says about a ticket's job.

    Attributes
    ----------
    state : queued, running, done, failed or cancelled
    position : queued jobs that come before it
    pixels_ahead : input pixels to compute until it is done, its own included
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
class Claim:
    """A queued job that this process has taken; `spool` is where its upload is kept."""

    name: str
    options: dict[str, Any]
    pixels: int
    spool: str


@dataclass(frozen=True)
class Cancelled:
    """A job that was just cancelled; `spool` is where its upload is kept, if it is."""

    spool: str | None
