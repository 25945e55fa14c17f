"""All of the service's own errors: those that clients see, and start-up failures."""

from typing import Self

from superres.excess import Excess


class StartupError(Exception):
    """The service cannot start; the text tells the operator why."""


class ConfigError(StartupError):
    """One or more settings are invalid; the text lists all of them."""


class ModelError(StartupError):
    """The model file is missing, damaged, or not an EDSR x3 model."""


class ServiceError(Exception):
    """An error that is reported to the client.

    Attributes
    ----------
    status : HTTP status code
    code : short stable name for programs
    message : text for humans; never an exception's text
    retry_after_seconds : when to retry, or None
    excess : the limit that the request exceeds, if it is one that programs can act on
    """

    status = 500
    code = "internal_error"

    def __init__(
        self,
        message: str,
        retry_after_seconds: int | None = None,
        excess: Excess | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_seconds = retry_after_seconds
        self.excess = excess

    def renew(self) -> Self:
        """Return the same error without its traceback, whose frames keep whole images alive."""
        return type(self)(self.message, self.retry_after_seconds, self.excess)


class BadRequest(ServiceError):
    """The request itself is malformed."""

    status = 400
    code = "bad_request"


class ModeUnavailable(ServiceError):
    """The service has no model for this mode."""

    status = 400
    code = "mode_unavailable"


class Unauthorized(ServiceError):
    """The request has no API key."""

    status = 401
    code = "unauthorized"


class InvalidKey(Unauthorized):
    """The request's API key is wrong, or was revoked."""

    code = "invalid_key"


class ForeignOrigin(ServiceError):
    """The request came from a page whose origin is not allowed."""

    status = 403
    code = "foreign_origin"


class UntrustedHost(ServiceError):
    """A browser's request names a host that is not known as the service's own."""

    # Not 421: browsers retry requests that get it, uploads too.
    status = 403
    code = "untrusted_host"


class BadSignature(ServiceError):
    """The address of an image by GET was not signed with this service's key."""

    status = 403
    code = "bad_signature"


class AddressExpired(ServiceError):
    """The address of an image by GET was signed for a time that is over."""

    status = 403
    code = "address_expired"


class SourceRefused(ServiceError):
    """The source's address, or its network, is one from which nothing is fetched."""

    status = 403
    code = "source_refused"


class SourceNotFound(ServiceError):
    """The source's server says that there is nothing at its address."""

    status = 404
    code = "source_not_found"


class SourceTooLarge(ServiceError):
    """The source's file is larger than allowed."""

    status = 413
    code = "source_too_large"


class SourceUnavailable(ServiceError):
    """The source's server does not send an image."""

    status = 502
    code = "source_unavailable"


class SourceTimeout(ServiceError):
    """The source's server takes too long."""

    status = 504
    code = "source_timeout"


class ResultNotFound(ServiceError):
    """No stored result has this name."""

    status = 404
    code = "not_found"


class JobNotFound(ServiceError):
    """No job has this ticket."""

    status = 404
    code = "job_not_found"


class ClientLeft(ServiceError):
    """The client closed the connection before the response; nobody reads this."""

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
    """The file is larger than allowed."""

    status = 413
    code = "too_large"


class UnsupportedUpload(ServiceError):
    """The bytes, or their Content-Type, are not of a supported kind."""

    status = 415
    code = "unsupported_media_type"


class UnsupportedVariant(UnsupportedUpload):
    """The format is supported, but not this kind of it: an animation, unusual samples."""

    code = "unsupported_variant"


class UndecodableImage(ServiceError):
    """The format is supported, but the pixels cannot be read."""

    status = 422
    code = "undecodable_image"


class TooManyPixels(ServiceError):
    """The image, or its result, has more pixels than allowed."""

    status = 422
    code = "too_many_pixels"


class TooLargeForMemory(ServiceError):
    """The result needs more memory than this machine has for images."""

    status = 422
    code = "too_large_for_memory"


class TooCostly(ServiceError):
    """The image alone would take longer than a request may wait."""

    status = 422
    code = "too_costly_sync"


class ResultTooLarge(ServiceError):
    """The result is larger than the whole cache may be."""

    status = 422
    code = "result_too_large"


class RateLimited(ServiceError):
    """The client has exceeded its rate limit."""

    status = 429
    code = "rate_limited"


class Busy(ServiceError):
    """The queue is full; the request may be retried."""

    status = 503
    code = "busy"


class DatabaseDown(ServiceError):
    """The jobs table cannot be read or written now."""

    status = 503
    code = "jobs_unavailable"


class JobCancelled(ServiceError):
    """The job was cancelled: nobody is waiting for its result."""

    status = 409
    code = "cancelled"


class EngineLost(JobCancelled):
    """What computed the tiles has failed for good; the job starts anew with another engine."""


class NotStored(ServiceError):
    """The result was computed, but cannot be stored under a URL."""

    status = 503
    code = "not_stored"


class NoRoom(NotStored):
    """The cache folder has no space for this result now."""


class StoreDown(NotStored):
    """The shared store does not respond now."""

    code = "store_unavailable"


class NotReady(ServiceError):
    """The model is loading, or gives wrong results."""

    status = 503
    code = "not_ready"
