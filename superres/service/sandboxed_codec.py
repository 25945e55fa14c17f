"""Checks headers, decodes and encodes images, each in its own sandboxed process."""

import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from typing import Any, BinaryIO

from superres import errors
from superres.errors import Busy, ClientLeft, JobCancelled, ServiceError, UndecodableImage
from superres.excess import Excess
from superres.images.formats import PNG
from superres.images.image_codec import MAX_SIDE
from superres.images.options import Options
from superres.images.picture import ImageHeader, Picture
from superres.images.shared_arrays import make_shared_memory
from superres.paths import EMBEDDED_MODEL_PATH
from superres.sandbox import picture_transfer
from superres.sandbox.confinement import Limits
from superres.sandbox.picture_transfer import (
    SEALS,
    SIZE_SEALS,
    SharedPicture,
    map_sealed,
    read_picture,
)
from superres.sandbox.sandbox import Ending, Sandbox
from superres.service.memory_admission import MemoryAdmission
from superres.service.memory_estimate import (
    SLACK_BYTES,
    decoding_bytes,
    encoding_bytes,
    header_bytes,
    header_slack_bytes,
)
from superres.service.memory_queue import MemoryClaim
from superres.service.upload import SPOOL_BYTES
from superres.store.stored_result import StoredResult

# Headers of two of the largest files are checked at once, and of small ones next to them, so that
# small ones never wait for large ones.
HEADERS_AT_ONCE = 2.4
HEADER_CPU_SECONDS = 1
# Ten times what the slowest formats take: 0.1 s per megapixel to decode TIFF with LZMA or 16 bits,
# and 0.5 to encode lossless WebP. A JPEG with a thousand scans takes all the time it is given, so a
# small file is not given much; beside the pixels, a megabyte takes 0.2 s at most.
DECODER_CPU_SECONDS, DECODER_SECONDS_PER_MEGAPIXEL, DECODER_BYTES_A_SECOND = 1, 2, 4_000_000
ENCODER_CPU_SECONDS, ENCODER_SECONDS_PER_MEGAPIXEL = 5, 5
REFUSALS = {
    name: getattr(errors, name)
    for name in ("UnsupportedUpload", "UnsupportedVariant", "UndecodableImage", "TooManyPixels")
}
RETRY_SECONDS = 10
ALL_LOCKS = {"landlock", "rlimit", "seccomp"}

logger = logging.getLogger(__name__)

HasLeft = Callable[[], bool]


class SandboxedCodec:
    """Decodes and encodes images in a sandbox, and explains what is wrong if its process dies.

    Parameters
    ----------
    keep_metadata : see `kept_metadata.read_metadata`
    max_upload_bytes : of a file

    Attributes
    ----------
    headers_bytes : memory that all header checks may take together
    deaths : number of tasks that ended without a reply
    """

    def __init__(self, keep_metadata: str, max_upload_bytes: int = 16 * 1024**2) -> None:
        self.sandbox = Sandbox()
        self.deaths = 0
        self._keep_metadata = keep_metadata
        self.headers_bytes = int(HEADERS_AT_ONCE * header_bytes(b"", max_upload_bytes, 0))
        self._largest_header_bytes = header_bytes(b"", max_upload_bytes, 0)
        self._headers = MemoryAdmission(lambda: self.headers_bytes)

    def start(self) -> None:
        """Start the helper, and check how its children are sandboxed."""
        with EMBEDDED_MODEL_PATH.with_name("golden_input.png").open("rb") as file:
            self.read_header(file, MAX_SIDE)
        if len(self.sandbox.locks) < len(ALL_LOCKS):
            missing = ", ".join(sorted(ALL_LOCKS - set(self.sandbox.locks)))
            logger.warning("images are processed without these sandbox locks: %s", missing)

    def read_header(
        self, file: BinaryIO, max_pixels: int, has_left: HasLeft = lambda: False
    ) -> ImageHeader:
        """Check format and size: see `image_codec.read_header`.

        Raises
        ------
        ServiceError
            As there; ClientLeft if nobody waits any more; Busy if the machine has no memory.
        """
        length = file.seek(0, os.SEEK_END)
        file.seek(0)
        start = file.read(16)
        memory_bytes = header_bytes(start, length, max_pixels)
        slack_bytes = header_slack_bytes(start, max_pixels)
        limits = Limits(memory_bytes + slack_bytes, HEADER_CPU_SECONDS, file_bytes=0)
        task = {"name": "check_header", "max_pixels": max_pixels}
        # Five of 4 MB would leave no room for small ones, which would then wait for seconds.
        least_bytes = self._largest_header_bytes if length > SPOOL_BYTES else 0
        # If the pixel limit is high, a GIF's frame alone may exceed the memory for headers.
        held_bytes = min(max(memory_bytes, least_bytes), self._headers.largest_bytes)
        try:
            with (
                self._headers.hold(MemoryClaim(held_bytes, held_bytes, length), has_left),
                open_descriptor(file) as descriptor,
            ):
                result = self._run(task, [descriptor], limits, has_left)
        except JobCancelled:
            raise ClientLeft("Nobody is waiting for this image any more.") from None
        header = ImageHeader(**result)
        # A process that opened a crafted file is not trusted: check the limits again.
        if not (0 < header.pixels <= max_pixels and min(header.width, header.height) > 0):
            raise UndecodableImage("The image's header is damaged or cut short.")
        return header

    def decode(
        self, file: BinaryIO, header: ImageHeader, has_left: HasLeft = lambda: False
    ) -> Picture:
        """Decode an image whose header was checked: see `image_codec.decode_image`.

        Raises
        ------
        ServiceError
            As `read_header`.
        """
        length = file.seek(0, os.SEEK_END)
        memory_bytes = decoding_bytes(header, length)
        cpu_seconds = (
            DECODER_CPU_SECONDS
            + DECODER_SECONDS_PER_MEGAPIXEL * header.pixels // 10**6
            + length // DECODER_BYTES_A_SECOND
        )
        limits = choose_limits(memory_bytes, cpu_seconds)
        task = {"name": "decode", "keep_metadata": self._keep_metadata}
        picture = self._decode(task, file, limits, has_left)
        width, height = picture.size
        if width * height != header.pixels:
            raise UndecodableImage("The image's size does not match its header.")
        return picture

    def decode_result(
        self, stored: StoredResult, memory_bytes: int, has_left: HasLeft = lambda: False
    ) -> Picture:
        """Decode a PNG that this service has made: see `decode_png_result`.

        Parameters
        ----------
        memory_bytes : that it may take

        Raises
        ------
        ServiceError
            As `read_header`.
        """
        megapixels = stored.info.width * stored.info.height // 10**6
        cpu_seconds = DECODER_CPU_SECONDS + DECODER_SECONDS_PER_MEGAPIXEL * megapixels
        limits = choose_limits(memory_bytes, cpu_seconds)
        # It may become a result as it is, whose memory is given back while it is encoded.
        return self._decode({"name": "decode_result"}, stored.file, limits, has_left, SIZE_SEALS)

    def _decode(
        self,
        task: dict[str, Any],
        file: BinaryIO,
        limits: Limits,
        has_left: HasLeft,
        seals: int = SEALS,
    ) -> Picture:
        with shared_memory() as memory, open_descriptor(file) as descriptor:
            result = self._run(task, [descriptor, memory], limits, has_left)
            mapped = map_sealed(memory, seals)
        assert mapped is not None
        return read_picture([mapped], result)

    def encode(
        self, picture: SharedPicture, options: Options, has_left: HasLeft = lambda: False
    ) -> memoryview:
        """Encode a result, which is lost: see `encoders.write_picture`.

        Raises
        ------
        ServiceError
            As `read_header`.
        """
        width, height = picture.size
        memory_bytes = encoding_bytes(
            *(width, height, options, picture.has_alpha, picture.is_deep), picture.metadata_bytes
        )
        cpu_seconds = ENCODER_CPU_SECONDS + ENCODER_SECONDS_PER_MEGAPIXEL * width * height // 10**6
        # libaom reserves a fifth more address space than it uses, for drawn images the most. The
        # image keeps its addresses while its memory is given back.
        slack_bytes = memory_bytes // 4 + picture.mapped_bytes
        limits = choose_limits(memory_bytes, cpu_seconds, slack_bytes)
        task = {
            "name": "encode",
            "options": options.as_dict(),
            "picture": picture.description,
        }
        with shared_memory() as memory:
            self._run(task, [*picture.descriptors, memory], limits, has_left)
            mapped = map_sealed(memory)
        assert mapped is not None
        return memoryview(mapped)

    def _run(
        self, task: dict[str, Any], descriptors: list[int], limits: Limits, has_left: HasLeft
    ) -> dict[str, Any]:
        ending = self.sandbox.run(task, descriptors, limits, has_left)
        reply = ending.reply
        if ending.words:
            logger.warning("%s: %s", task["name"], ending.words)
        if "refused" in reply:
            name, message, excess = reply["refused"]
            raise REFUSALS[name](message, excess=excess and Excess(**excess))
        if ending.exit_code == 0 and "result" in reply:
            result: dict[str, Any] = reply["result"]
            return result
        self.deaths += 1
        logger.warning("the process for task %s died: %s", task["name"], name_ending(ending))
        raise explain(ending, is_upload=task["name"] != "encode")


def choose_limits(memory_bytes: int, cpu_seconds: int, slack_bytes: int = 0) -> Limits:
    """Return the limits for decoding or encoding."""
    address_bytes = memory_bytes + SLACK_BYTES + slack_bytes
    return Limits(address_bytes, cpu_seconds, file_bytes=memory_bytes)


def name_ending(ending: Ending) -> str:
    """Return what killed a child, for the log."""
    if ending.reply.get("out_of_memory"):
        return "out of memory"
    if ending.exit_code < 0:
        return signal.Signals(-ending.exit_code).name
    return f"exit status {ending.exit_code}"


def explain(ending: Ending, is_upload: bool) -> ServiceError:
    """Make the error for the client whose image killed a child."""
    if ending.exit_code == -signal.SIGKILL:
        return Busy("There is not enough memory for this image now.", RETRY_SECONDS)
    if not is_upload:
        return UndecodableImage("The result cannot be written in this format; choose another.")
    if ending.reply.get("out_of_memory"):
        return UndecodableImage("Decoding takes more memory than an image of this size should.")
    if ending.exit_code == -signal.SIGXCPU:
        return UndecodableImage("Decoding takes longer than an image of this size should.")
    return UndecodableImage("The image is too damaged to be decoded.")


@contextmanager
def shared_memory() -> Iterator[int]:
    """Create shared memory; mappings remain valid after the block."""
    descriptor = make_shared_memory()
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def share_picture(picture: Picture, options: Options) -> SharedPicture:
    """Describe a result for `encode`; see `picture_transfer.share_picture`."""
    if options.format != PNG.name:
        picture = replace(picture, deep=None)  # no other format has 16 bits
    return picture_transfer.share_picture(picture)


@contextmanager
def open_descriptor(file: BinaryIO) -> Iterator[int]:
    """Open a file's bytes for another process, with a separate file position.

    Small uploads may be in memory only; asking for their file descriptor would write them to disk.
    """
    is_in_memory = isinstance(file, BytesIO) or file.seek(0, os.SEEK_END) <= SPOOL_BYTES
    if is_in_memory:
        descriptor = make_shared_memory()
    else:
        descriptor = os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY)
    try:
        if is_in_memory:
            file.seek(0)
            with os.fdopen(os.dup(descriptor), "wb") as copy:
                shutil.copyfileobj(file, copy)
            os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)
