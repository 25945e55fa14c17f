"""Conditional requests: RFC 9110, section 13."""

import math

from werkzeug.http import parse_date
from werkzeug.wrappers import Request


def evaluate_preconditions(request: Request, etag: str, modified: float | None) -> int | None:
    """Return 412 or 304 if the request's conditions require it, in RFC 9110's order (13.2.2).

    Werkzeug's own evaluation responds to `If-Match: *` with 412, and sends a body with it.

    Parameters
    ----------
    request : a GET or HEAD
    etag : the result's strong entity tag, without quotes
    modified : when it was stored, seconds since the epoch; None: conditions on it are ignored
    """
    headers = request.headers
    if "If-Match" in headers:
        if not request.if_match.contains(etag):
            return 412
    elif modified is not None and int(modified) > read_date(
        request, "If-Unmodified-Since", default=math.inf
    ):
        return 412
    if "If-None-Match" in headers:
        return 304 if request.if_none_match.contains_weak(etag) else None
    if modified is None:
        return None
    since = read_date(request, "If-Modified-Since", default=-math.inf)
    return 304 if int(modified) <= since else None


def read_date(request: Request, name: str, default: float) -> float:
    """Return a header's date in seconds since the epoch; an invalid one counts as absent."""
    try:
        date = parse_date(request.headers.get(name))
        return default if date is None else date.timestamp()
    except (OverflowError, ValueError):
        return default
