"""Reads the uploaded image from a request: a multipart field `image`, or the raw body."""

import contextlib
import errno
import math
import re
import select
import tempfile
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import PurePosixPath
from typing import BinaryIO, cast

from gunicorn.http.errors import ParseException
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge
from werkzeug.wrappers import Request

from superres.errors import BadRequest, Busy, UnsupportedUpload, UploadTimeout, UploadTooLarge
from superres.excess import Excess, compare, show_amount
from superres.images.input_formats import INPUT_NAMES
from superres.service.upload import SPOOL_BYTES, Upload
from superres.store.result_name import READ_CHUNK_BYTES, hash_file
from superres.web.forms import DEFAULT_NAME, FIELD, is_picture_type
from superres.web.slow_clients import UploadTransfer, watch

HOW_TO_UPLOAD = (
    f"Send an image ({INPUT_NAMES}) as multipart/form-data in the field '{FIELD}' "
    f"(curl -F {FIELD}=@photo.jpg), or as the body with its own Content-Type "
    "(curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg')."
)
MAX_STEM_LENGTH = 100
# File systems allow 255 bytes, of which the extension takes some.
MAX_STEM_BYTES = 200
# Control characters, what a quoted string would have to escape, and bidirectional marks, which can
# make a name appear to have another extension.
UNWANTED = re.compile('[\x00-\x1f\x7f-\x9f"\\\\\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]')
LEAST_BYTES_PER_SECOND = 32 * 1024
TOO_SLOW = (
    f"The upload takes too long: less than {LEAST_BYTES_PER_SECOND // 1024} KB/s arrived on "
    "average. Send a smaller file, or over a faster connection."
)
# The connection broke, or gunicorn found a malformed chunk.
BROKEN_BODY = (OSError, ParseException)
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
NO_ROOM_RETRY_SECONDS = 60
# How much of a rejected upload is drained, and for how long.
MAX_DRAIN_BYTES = 64 * 1024**2
MAX_DRAIN_SECONDS = 10
MAX_DRAIN_PAUSE_SECONDS = 1
DRAIN_PIECE_BYTES = 16 * 1024


@contextlib.contextmanager
def limit_time(
    request: Request, pause_seconds: float, grace_seconds: float, least_per_second: float
) -> Iterator[Callable[[], bool]]:
    """Make reading the request's body fail if the client pauses, or is too slow overall.

    gunicorn's threads have no such limits, and a slow client would hold its thread forever.

    Yields
    ------
    tells whether the client was too slow
    """
    connection = request.environ.get("gunicorn.socket")
    if connection is None:
        yield lambda: False
        return
    former = connection.gettimeout()
    connection.settimeout(pause_seconds)
    try:
        with watch(UploadTransfer(connection, grace_seconds, least_per_second)) as transfer:
            yield lambda: transfer.is_over
    finally:
        connection.settimeout(former)


def has_left(request: Request) -> bool:
    """Tell whether the client has closed the connection instead of waiting for the response.

    Works behind Nginx too, which closes its connection to the service when its client leaves.
    """
    connection = request.environ.get("gunicorn.socket")
    if connection is None:
        return False
    poll = select.poll()
    # Detects the end even after unread bytes, and below TLS.
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(0))


def read_upload(request: Request, max_bytes: int, timeout_seconds: float) -> Upload:
    """Read the image file of a request.

    Raises
    ------
    BadRequest
        The form is malformed, or has no single file named `image`.
    UnsupportedUpload
        The Content-Type or Content-Encoding is not supported.
    UploadTooLarge
        The file has more than `max_bytes`.
    UploadTimeout
        The client sent nothing for `timeout_seconds`, or after that less than
        `LEAST_BYTES_PER_SECOND` on average.
    Busy
        The file system for temporary files is full.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedUpload("Content-Encoding is not supported; send the file as it is.")
    mimetype = request.mimetype
    try:
        with limit_time(
            request, timeout_seconds, timeout_seconds, LEAST_BYTES_PER_SECOND
        ) as is_too_slow:
            if mimetype == "multipart/form-data":
                file, name = take_form_file(request)
            elif is_picture_type(mimetype):
                file, name = spool_body(request), ""
            else:
                raise UnsupportedUpload(HOW_TO_UPLOAD)
    except RequestEntityTooLarge:
        raise too_large(max_bytes, request.content_length) from None
    except ClientDisconnected as error:
        # Werkzeug's error for whatever goes wrong with the connection.
        if is_too_slow():
            raise UploadTimeout(TOO_SLOW) from None
        if isinstance(error.__context__, TimeoutError):
            raise UploadTimeout(
                f"Nothing was sent for {timeout_seconds} seconds; send the file again."
            ) from None
        raise
    except (*BROKEN_BODY, BadRequest) as error:
        if is_too_slow():
            raise UploadTimeout(TOO_SLOW) from None
        if isinstance(error, BadRequest):
            raise
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise Busy(
                "There is no room on the disk for an upload now; send it again later.",
                NO_ROOM_RETRY_SECONDS,
            ) from error
        raise BadRequest("The upload was cut short or is malformed.") from None
    try:
        size = file.seek(0, 2)
        if size > max_bytes:
            raise too_large(max_bytes, size)
        if size == 0:
            raise BadRequest("The file is empty.")
        return Upload(file, hash_file(file), file_stem(name))
    except BaseException:
        file.close()
        raise


def too_large(max_bytes: int, size_bytes: int | None) -> UploadTooLarge:
    """Make the error for an upload that is too large; its size is None if it is not known."""
    if size_bytes is None:
        words = f"The upload has more than {show_amount(max_bytes, 'bytes')}, the most accepted."
    else:
        found, allowed = compare(size_bytes, max_bytes, "bytes")
        words = f"The upload has {found}; at most {allowed} are accepted."
    return UploadTooLarge(
        f"{words} Save the image as JPEG, WebP or HEIC, or make it smaller.",
        excess=Excess("upload_bytes", max_bytes, size_bytes),
    )


def take_form_file(request: Request) -> tuple[BinaryIO, str]:
    """Take the file of the field `image` from a multipart form, with its name."""
    files = request.files.getlist(FIELD)
    if FIELD in request.form:
        raise BadRequest(
            f"The field '{FIELD}' is text; it must be a file, with a file name or a Content-Type "
            f"such as image/png. {HOW_TO_UPLOAD}"
        )
    if not files:
        raise BadRequest(f"The form has no file in the field '{FIELD}'. {HOW_TO_UPLOAD}")
    if len(files) > 1:
        raise BadRequest(f"The form has {len(files)} files in the field '{FIELD}'; send one.")
    storage = files[0]
    if not storage.filename:
        raise BadRequest(
            f"The file in the field '{FIELD}' has an empty name, as if no file was chosen."
        )
    # The request closes its files when it ends, but others may wait for this one's result.
    file, storage.stream = storage.stream, BytesIO()
    return cast(BinaryIO, file), storage.filename


def spool_body(request: Request) -> BinaryIO:
    """Copy a request's body to a temporary file; the request's own length limit applies.

    Raises
    ------
    BadRequest
        The body is shorter than its Content-Length, which gunicorn does not detect.
    """
    file = tempfile.SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115  # returned open
    try:
        while chunk := request.stream.read(READ_CHUNK_BYTES):
            file.write(chunk)
        if request.content_length is not None and file.tell() < request.content_length:
            raise BadRequest("The upload was cut short.")
    except BaseException:
        file.close()
        raise
    return cast(BinaryIO, file)


def drain_body(request: Request) -> None:
    """Drain what a client is still sending of a rejected upload.

    gunicorn closes the connection with the rest unread; the client then sees a connection reset
    instead of the response (observed with bodies over the limit).
    """
    if not request.environ.get("wsgi.input_terminated"):
        return  # this server does not signal the end of the body
    stream = request.environ["wsgi.input"]
    left = MAX_DRAIN_BYTES
    deadline = time.monotonic() + MAX_DRAIN_SECONDS
    with (
        contextlib.suppress(*BROKEN_BODY),
        limit_time(request, MAX_DRAIN_PAUSE_SECONDS, MAX_DRAIN_SECONDS, math.inf),
    ):
        while left > 0 and time.monotonic() < deadline:
            piece = stream.read(DRAIN_PIECE_BYTES)
            if not piece:
                return
            left -= len(piece)


def file_stem(name: str) -> str:
    """Return a client's file name without folders, extension and control characters."""
    stem = PurePosixPath(name.replace("\\", "/")).stem
    clean = UNWANTED.sub("", stem)[:MAX_STEM_LENGTH]
    short = clean.encode()[:MAX_STEM_BYTES].decode(errors="ignore")
    return short.strip(" .") or DEFAULT_NAME
