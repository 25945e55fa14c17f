"""Read the uploaded picture out of a request: a multipart field `image`, or the raw body."""

import re
import tempfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath
from typing import BinaryIO, cast

from werkzeug.wrappers import Request

from errors import BadRequest, UnsupportedUpload, UploadTooLarge
from image_codec import ACCEPTED_NAMES
from result_cache import READ_CHUNK_BYTES, hash_file

FIELD = "image"
# Uploads up to this size stay in memory; larger ones are spooled to a temporary file.
SPOOL_BYTES = 512 * 1024
HOW_TO_UPLOAD = (
    f"Send a picture ({ACCEPTED_NAMES}) as multipart/form-data in the field '{FIELD}' "
    f"(curl -F {FIELD}=@photo.jpg), or as the body with its own Content-Type "
    "(curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg')."
)
DEFAULT_STEM = "image"


@dataclass(frozen=True)
class Upload:
    """An uploaded file.

    Attributes
    ----------
    file : the bytes; closed by whoever takes the upload
    key : their SHA-256 in hex
    stem : the client's file name without folders and ending
    """

    file: BinaryIO
    key: str
    stem: str


def read_upload(request: Request, max_bytes: int) -> Upload:
    """Read the picture file of a request.

    Raises
    ------
    BadRequest
        The form is malformed, or has no single file named `image`.
    UnsupportedUpload
        The Content-Type or Content-Encoding is none that carries a picture here.
    UploadTooLarge
        The file has more than `max_bytes`.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedUpload("A Content-Encoding is not accepted; send the file as it is.")
    mimetype = request.mimetype
    if mimetype == "multipart/form-data":
        file, name = take_form_file(request)
    elif mimetype.startswith("image/") or mimetype == "application/octet-stream":
        file, name = spool_body(request), ""
    else:
        raise UnsupportedUpload(HOW_TO_UPLOAD)
    try:
        size = file.seek(0, 2)
        if size > max_bytes:
            raise UploadTooLarge(f"The file has more than {max_bytes:,} bytes.")
        if size == 0:
            raise BadRequest("The file is empty.")
        return Upload(file, hash_file(file), file_stem(name))
    except BaseException:
        file.close()
        raise


def take_form_file(request: Request) -> tuple[BinaryIO, str]:
    """Take the file of the field `image` out of a multipart form, with its name."""
    if not request.mimetype_params.get("boundary"):
        raise BadRequest(
            "The Content-Type has no boundary. Let the browser or client set the Content-Type "
            "of a form itself."
        )
    files = request.files.getlist(FIELD)
    if FIELD in request.form:
        raise BadRequest(f"The field '{FIELD}' is text; it must be a file. {HOW_TO_UPLOAD}")
    if not files:
        raise BadRequest(f"The form has no file in the field '{FIELD}'. {HOW_TO_UPLOAD}")
    if len(files) > 1:
        raise BadRequest(f"The form has {len(files)} files in the field '{FIELD}'; send one.")
    storage = files[0]
    if not storage.filename:
        raise BadRequest(f"The file in the field '{FIELD}' has no name: none was chosen.")
    # The request closes its files when it ends; a result that others wait for needs this one.
    file, storage.stream = storage.stream, BytesIO()
    return cast(BinaryIO, file), storage.filename


def spool_body(request: Request) -> BinaryIO:
    """Copy a request's body to a temporary file; the request's own limit on its length holds."""
    file = tempfile.SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115  # handed on open
    try:
        while chunk := request.stream.read(READ_CHUNK_BYTES):
            file.write(chunk)
    except BaseException:
        file.close()
        raise
    return cast(BinaryIO, file)


def file_stem(name: str) -> str:
    """Return a client's file name without folders, ending and control characters."""
    stem = PurePosixPath(name.replace("\\", "/")).stem
    return re.sub(r"[\x00-\x1f\x7f\"\\]", "", stem).strip(" .") or DEFAULT_STEM
