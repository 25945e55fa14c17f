"""Header check, decoding and encoding of images, each in a process that may die."""

import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import UnsupportedOperation
from typing import Any, BinaryIO

from superres import errors
from superres.errors import Busy, ClientLeft, JobCancelled, ServiceError, UndecodableImage
from superres.images.formats import PNG
from superres.images.image_codec import MAX_SIDE, ImageHeader, Picture
from superres.images.options import Options
from superres.paths import EMBEDDED_MODEL_PATH
from superres.sandbox.confinement import Limits
from superres.sandbox.picture_transfer import (
    Description,
    make_shared_memory,
    map_sealed,
    read_picture,
    write_picture,
)
from superres.sandbox.sandbox import Ending, Sandbox
from superres.service.memory_admission import Claim, MemoryAdmission
from superres.service.memory_estimate import (
    SLACK_BYTES,
    decoding_bytes,
    encoding_bytes,
    header_bytes,
    header_slack_bytes,
)
from superres.service.upload import SPOOL_BYTES

# Two of the largest files have their headers checked at once, and beside them small ones, which so
# never wait for large ones.
HEADERS_AT_ONCE = 2.4
HEADER_CPU_SECONDS = 1
# Ten times what the slowest formats take: 0.1 s a megapixel to decode TIFF with LZMA or 16 bits and
# 0.5 to encode WebP without loss. A JPEG of a thousand scans costs as much as it is given.
CPU_SECONDS, DECODER_SECONDS_PER_MEGAPIXEL, ENCODER_SECONDS_PER_MEGAPIXEL = 5, 2, 5
REFUSALS = {
    name: getattr(errors, name)
    for name in ("UnsupportedUpload", "UndecodableImage", "TooManyPixels")
}
RETRY_SECONDS = 10
ALL_LOCKS = {"landlock", "rlimit", "seccomp"}

logger = logging.getLogger(__name__)

HasLeft = Callable[[], bool]


@dataclass(frozen=True)
class SharedPicture:
    """An image in shared memory, for a child to encode."""

    descriptor: int
    description: Description
    width: int
    height: int
    has_alpha: bool
    is_deep: bool


class SandboxedCodec:
    """Opens images' bytes in a sandbox, and says what is wrong with those that break it.

    Parameters
    ----------
    keep_metadata : see `metadata.read_exif`
    max_upload_bytes : of a file

    Attributes
    ----------
    headers_bytes : memory that all header checks may take together
    deaths : tasks that ended without an answer
    """

    def __init__(self, keep_metadata: str, max_upload_bytes: int = 16 * 1024**2) -> None:
        self.sandbox = Sandbox()
        self.deaths = 0
        self._keep_metadata = keep_metadata
        self.headers_bytes = int(HEADERS_AT_ONCE * header_bytes(b"", max_upload_bytes, 0))
        self._largest_header_bytes = header_bytes(b"", max_upload_bytes, 0)
        self._headers = MemoryAdmission(lambda: self.headers_bytes)

    def start(self) -> None:
        """Start the helper, and see how its children are confined."""
        with EMBEDDED_MODEL_PATH.with_name("golden_input.png").open("rb") as file:
            self.read_header(file, MAX_SIDE)
        if len(self.sandbox.locks) < len(ALL_LOCKS):
            missing = ", ".join(sorted(ALL_LOCKS - set(self.sandbox.locks)))
            logger.warning("pictures are opened without these locks: %s", missing)

    def read_header(
        self, file: BinaryIO, max_pixels: int, has_left: HasLeft = lambda: False
    ) -> ImageHeader:
        """Check format and size: see `image_codec.read_header`.

        Raises
        ------
        ServiceError
            As there; ClientLeft where nobody waits any more; Busy where the machine has no memory.
        """
        length = file.seek(0, os.SEEK_END)
        file.seek(0)
        start = file.read(16)
        memory_bytes = header_bytes(start, length, max_pixels)
        slack_bytes = header_slack_bytes(start, max_pixels)
        limits = Limits(memory_bytes + slack_bytes, HEADER_CPU_SECONDS, file_bytes=0)
        task = {"name": "check_header", "max_pixels": max_pixels}
        # Five of 4 MB would leave no room for small ones, which then waited for seconds.
        least_bytes = self._largest_header_bytes if length > SPOOL_BYTES else 0
        # Where more pixels are accepted, a GIF's frame alone may be more than there is.
        held_bytes = min(max(memory_bytes, least_bytes), self._headers.largest_bytes)
        try:
            with (
                self._headers.hold(Claim(held_bytes, held_bytes, length), has_left),
                open_descriptor(file) as descriptor,
            ):
                result = self._run(task, [descriptor], limits, has_left)
        except JobCancelled:
            raise ClientLeft("Nobody wants this picture any more.") from None
        header = ImageHeader(**result)
        # What a process says that opened a crafted file is held against the limits once more.
        if not (0 < header.pixels <= max_pixels and min(header.width, header.height) > 0):
            raise UndecodableImage("The picture's header is damaged or cut short.")
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
        memory_bytes = decoding_bytes(header, file.seek(0, os.SEEK_END))
        limits = choose_limits(memory_bytes, header.pixels, DECODER_SECONDS_PER_MEGAPIXEL)
        task = {"name": "decode", "keep_metadata": self._keep_metadata}
        with shared_memory() as memory, open_descriptor(file) as descriptor:
            result = self._run(task, [descriptor, memory], limits, has_left)
            mapped = map_sealed(memory)
        assert mapped is not None
        picture = read_picture(mapped, result)
        width, height = picture.size
        if width * height != header.pixels:
            raise UndecodableImage("The picture is not as large as its header says.")
        return picture

    def encode(
        self, picture: SharedPicture, options: Options, has_left: HasLeft = lambda: False
    ) -> memoryview:
        """Encode a result: see `encoders.encode_picture`.

        Raises
        ------
        ServiceError
            As `read_header`.
        """
        pixels = picture.width * picture.height
        memory_bytes = encoding_bytes(pixels, options, picture.has_alpha, picture.is_deep)
        limits = choose_limits(memory_bytes, pixels, ENCODER_SECONDS_PER_MEGAPIXEL)
        task = {
            "name": "encode",
            "options": options.as_dict(),
            "picture": picture.description,
        }
        with shared_memory() as memory:
            self._run(task, [picture.descriptor, memory], limits, has_left)
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
            name, message = reply["refused"]
            raise REFUSALS[name](message)
        if ending.exit_code == 0 and "result" in reply:
            result: dict[str, Any] = reply["result"]
            return result
        self.deaths += 1
        logger.warning("%s of a picture ended by itself: %s", task["name"], name_ending(ending))
        raise explain(ending, is_upload=task["name"] != "encode")


def choose_limits(memory_bytes: int, pixels: int, seconds_per_megapixel: int) -> Limits:
    """Return what decoding or encoding so many pixels may take."""
    cpu_seconds = CPU_SECONDS + seconds_per_megapixel * pixels // 10**6
    return Limits(memory_bytes + SLACK_BYTES, cpu_seconds, file_bytes=memory_bytes)


def name_ending(ending: Ending) -> str:
    """Return what killed a child, for the log."""
    if ending.reply.get("out_of_memory"):
        return "out of its memory"
    if ending.exit_code < 0:
        return signal.Signals(-ending.exit_code).name
    return f"exit status {ending.exit_code}"


def explain(ending: Ending, is_upload: bool) -> ServiceError:
    """Make the error for the client whose image ended a child."""
    if ending.exit_code == -signal.SIGKILL:
        return Busy("There is not enough memory for this picture now.", RETRY_SECONDS)
    if not is_upload:
        return UndecodableImage("The result cannot be written in this format; choose another.")
    if ending.reply.get("out_of_memory"):
        return UndecodableImage("Decoding takes more memory than a picture of this size should.")
    if ending.exit_code == -signal.SIGXCPU:
        return UndecodableImage("Decoding takes longer than a picture of this size should.")
    return UndecodableImage("The picture is damaged so that it cannot be decoded.")


@contextmanager
def shared_memory() -> Iterator[int]:
    """Make shared memory; what is mapped stays when the block ends."""
    descriptor = make_shared_memory()
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def share_picture(picture: Picture, options: Options) -> Iterator[SharedPicture]:
    """Copy an image to shared memory, so that its own can be given back before it is encoded."""
    if options.format != PNG.name:
        picture = replace(picture, deep=None)  # no other format has 16 bits
    has_alpha, is_deep = picture.alpha is not None, picture.deep is not None
    with shared_memory() as memory:
        description = write_picture(picture, memory)
        width, height = picture.size
        del picture
        yield SharedPicture(memory, description, width, height, has_alpha, is_deep)


@contextmanager
def open_descriptor(file: BinaryIO) -> Iterator[int]:
    """Open a file's bytes for another process, which gets a position of its own.

    Small uploads may be in memory alone; asked for their descriptor, they would go to the disk.
    """
    is_small = file.seek(0, os.SEEK_END) <= SPOOL_BYTES
    try:
        if is_small:
            raise UnsupportedOperation
        descriptor = os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY)
    except UnsupportedOperation:
        descriptor = make_shared_memory()
        with os.fdopen(os.dup(descriptor), "wb") as copy:
            file.seek(0)
            shutil.copyfileobj(file, copy)
        os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
