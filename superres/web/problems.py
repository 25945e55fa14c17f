"""Every error as application/problem+json (RFC 9457), without revealing internals."""

import logging
from dataclasses import asdict
from datetime import UTC, datetime
from http import HTTPStatus

from flask import Flask, Response, g, has_app_context, jsonify
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from superres.errors import BadRequest, ResultNotFound, ServiceError
from superres.excess import Excess

# Code and message for errors of Flask and Werkzeug, whose own messages may reveal internals.
REFUSALS = {
    400: (BadRequest.code, "The request is malformed or was cut short."),
    404: (ResultNotFound.code, "There is nothing at this address."),
}

logger = logging.getLogger(__name__)


def utc_now() -> str:
    """Return the current time as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def problem_members(status: int, code: str, message: str) -> dict[str, str | int | None]:
    """Return the members of a problem."""
    return {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": message,
        "error": message,
        "code": code,
        # None for a request that gunicorn rejects before the application sees it.
        "request_id": g.get("request_id") if has_app_context() else None,
        "timestamp": utc_now(),
    }


def make_problem(status: int, code: str, message: str, excess: Excess | None = None) -> Response:
    """Make a problem response."""
    g.problem_code = code
    exceeded = {} if excess is None else {"exceeded": asdict(excess)}
    response = jsonify(problem_members(status, code, message) | exceeded)
    response.status_code = status
    response.mimetype = "application/problem+json"
    return response


def answer_service_error(error: ServiceError) -> Response:
    """Respond to one of the service's own errors."""
    response = make_problem(error.status, error.code, error.message, error.excess)
    if error.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    return response


def answer_http_exception(error: HTTPException) -> Response:
    """Respond to an error raised by Flask or Werkzeug, keeping headers such as Allow."""
    status = error.code or 500
    phrase = HTTPStatus(status).phrase
    code, message = REFUSALS.get(status, (phrase.lower().replace(" ", "_"), f"{phrase}."))
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        methods = sorted({*error.valid_methods} - {"HEAD", "OPTIONS"})
        message = f"This address supports only {' and '.join(methods)}."
    response = make_problem(status, code, message)
    for name, value in error.get_headers():
        if name.lower() != "content-type":
            response.headers[name] = value
    return response


def answer_unexpected_error(error: Exception) -> Response:
    """Respond to a fault of the service."""
    logger.error("the service failed", exc_info=error)
    return make_problem(500, ServiceError.code, "The service failed; the operator's log says why.")


def install_problems(app: Flask) -> None:
    """Register the handlers."""
    app.register_error_handler(ServiceError, answer_service_error)
    app.register_error_handler(HTTPException, answer_http_exception)
    app.register_error_handler(Exception, answer_unexpected_error)
