"""Every error that the service names: what a client may read, and start-up faults."""

from typing import Self


class StartupError(Exception):
    """The service cannot start; the text tells the operator why."""


class ConfigError(StartupError):
    """One or more settings are wrong; the text lists all of them."""


class ModelError(StartupError):
    """The model file is missing, damaged, or no EDSR x3 model."""


class ServiceError(Exception):
    """An error that a client is told about.

    Attributes
    ----------
    status : HTTP status code
    code : short stable name for programs
    message : words for a person; never an exception's text
    retry_after_seconds : when trying again makes sense, or None
    """

    status = 500
    code = "internal_error"

    def __init__(self, message: str, retry_after_seconds: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_seconds = retry_after_seconds

    def renew(self) -> Self:
        """Return the same error without its traceback, whose frames hold on to whole images."""
        return type(self)(self.message, self.retry_after_seconds)


class BadRequest(ServiceError):
    """The request itself is malformed."""

    status = 400
    code = "bad_request"


class Unauthorized(ServiceError):
    """The request has no API key that is known."""

    status = 401
    code = "unauthorized"


class ForeignOrigin(ServiceError):
    """A page of an origin that is not listed sent the request."""

    status = 403
    code = "foreign_origin"


class UntrustedHost(ServiceError):
    """A browser asked for a host that is not known as the service's own."""

    # Not 421: browsers send a request that gets it once more, uploads too.
    status = 403
    code = "untrusted_host"


class ResultNotFound(ServiceError):
    """No stored result has this name."""

    status = 404
    code = "not_found"


class JobNotFound(ServiceError):
    """No job has this ticket."""

    status = 404
    code = "job_not_found"


class ClientLeft(ServiceError):
    """The client closed the connection before the answer; nobody reads this."""

    status = 408
    code = "client_left"


class UploadLost(ServiceError):
    """The upload of an accepted job is no longer there."""

    status = 500
    code = "upload_lost"


class UploadTimeout(ServiceError):
    """The client paused too long in the middle of its upload."""

    status = 408
    code = "upload_timeout"


class UploadTooLarge(ServiceError):
    """The file has more bytes than allowed."""

    status = 413
    code = "too_large"


class UnsupportedUpload(ServiceError):
    """The bytes, or their Content-Type, are of no accepted kind."""

    status = 415
    code = "unsupported_media_type"


class UndecodableImage(ServiceError):
    """An accepted format whose pixels cannot be read."""

    status = 422
    code = "undecodable_image"


class TooManyPixels(ServiceError):
    """The image, or its result, has more pixels than allowed."""

    status = 422
    code = "too_many_pixels"


class TooLargeForMemory(ServiceError):
    """Making the result takes more memory than this machine has for images."""

    status = 422
    code = "too_large_for_memory"


class TooCostly(ServiceError):
    """Computing this image alone takes longer than a request may wait."""

    status = 422
    code = "too_costly_sync"


class ResultTooLarge(ServiceError):
    """The result has more bytes than all stored results may have."""

    status = 422
    code = "result_too_large"


class RateLimited(ServiceError):
    """The client has asked for more than it may in so short a time."""

    status = 429
    code = "rate_limited"


class Busy(ServiceError):
    """The queue is full; the same request succeeds later."""

    status = 503
    code = "busy"


class DatabaseDown(ServiceError):
    """The jobs table cannot be read or written now."""

    status = 503
    code = "jobs_unavailable"


class JobCancelled(ServiceError):
    """Nobody wants the result any more."""

    status = 409
    code = "cancelled"


class NotStored(ServiceError):
    """The result was computed and cannot be kept at an address."""

    status = 503
    code = "not_stored"


class NoRoom(NotStored):
    """The folder of results does not take this one now."""


class StoreDown(NotStored):
    """The store that the machines share does not answer now."""

    code = "store_unavailable"


class NotReady(ServiceError):
    """The model is loading, or does not compute what it should."""

    status = 503
    code = "not_ready"
