"""Request IDs, and the log line for each request."""

import logging
import re
import time
import uuid
from urllib.parse import quote

from flask import Flask, Response, g, request

from superres.logs import current_request_id

REQUEST_ID_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,64}")

logger = logging.getLogger("request")


def begin_request() -> None:
    """Record when the request began, and its ID: the client's if well-formed."""
    g.started = time.perf_counter()
    wanted = request.headers.get("X-Request-ID", "")
    g.request_id = wanted if REQUEST_ID_PATTERN.fullmatch(wanted) else uuid.uuid4().hex
    current_request_id.set(g.request_id)


def log_request(response: Response) -> Response:
    """Write the request's line to the log."""
    seconds = time.perf_counter() - g.started
    path = quote(request.path, errors="replace")
    details = {
        "hit": g.get("cache_hit"),
        "pixels": g.get("pixels"),
        "code": g.get("problem_code"),
        "key": g.get("api_key_name"),
        "job": g.get("job"),
    }
    known = {name: value for name, value in details.items() if value is not None}
    logger.info(
        "%s %s %d %.3fs%s",
        request.method,
        path,
        response.status_code,
        seconds,
        "".join(f" {name}={format_detail(value)}" for name, value in known.items()),
        extra={
            "method": request.method,
            "path": path,
            "status": response.status_code,
            "seconds": round(seconds, 3),
            **known,
        },
    )
    return response


def end_request(_error: BaseException | None) -> None:
    """Clear the request's ID: the thread serves others too."""
    current_request_id.set("")


def format_detail(value: object) -> str:
    """Format a detail for the log line."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def install_request_log(app: Flask) -> None:
    """Register the hooks; must be called first, so that the line is written last."""
    app.before_request(begin_request)
    app.after_request(log_request)
    app.teardown_request(end_request)
