"""What a sandboxed child does with one image: check its header, decode it, or encode a result."""

import json
import mmap
import os
import socket
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from PIL import Image

from superres.errors import ServiceError, TooManyPixels
from superres.excess import Excess, compare
from superres.images.encoders import encode_picture, write_picture
from superres.images.formats import FORMATS
from superres.images.image_codec import MAKE_SMALLER, decode_image, read_header
from superres.images.metadata import Metadata, convert_to_srgb
from superres.images.options import Options
from superres.images.picture import Picture
from superres.images.png_file import make_chunk
from superres.images.png_result import decode_png_result
from superres.images.png_text import make_text
from superres.images.shared_arrays import map_memory
from superres.images.xmp_packet import Node, Packet, write_packet
from superres.sandbox import picture_transfer
from superres.sandbox.confinement import Confinement, Limits
from superres.sandbox.picture_transfer import read_picture

# A damaged file may make a decoder warn a hundred thousand times.
MAX_WARNINGS_SHOWN = 3
MAX_WARNING_LENGTH = 200
STATUS_BYTES = 8192
TITLE = "{http://purl.org/dc/elements/1.1/}title"
PIXELS_OF_WARM_UP = np.zeros((8, 8, 3), np.uint8)
# Of all kinds, and in all encodings.
METADATA_OF_WARM_UP = Metadata(
    dpi=(72, 72),
    xmp=write_packet(Packet({TITLE: Node(TITLE, text="title")})),
    iptc=b"\x1c\x02\x05\0\1\xe9",
    texts=b"".join(make_chunk(*make_text(b"parameters", words)) for words in ("\xe9", "\u4e00")),
)


def check_header(task: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
    """Read the header of the file in the first descriptor."""
    max_pixels = task["max_pixels"]
    # Some of Pillow's readers allocate the image before its size can be checked.
    Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        with os.fdopen(descriptors[0], "rb") as file:
            return asdict(read_header(file, max_pixels))
    except Image.DecompressionBombError:
        # Pillow tolerates twice as many.
        found, allowed = compare(2 * max_pixels, max_pixels, "pixels")
        raise TooManyPixels(
            f"The image has more than {found}; at most {allowed} are accepted. {MAKE_SMALLER}",
            excess=Excess("input_pixels", max_pixels, None),
        ) from None


def decode(task: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
    """Decode the file in the first descriptor into the shared memory of the second."""
    with os.fdopen(descriptors[0], "rb") as file:
        return picture_transfer.write_picture(
            decode_image(file, task["keep_metadata"]), descriptors[1]
        )


def decode_result(_task: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
    """Decode the service's own PNG in the first descriptor, as `decode` does an upload."""
    with os.fdopen(descriptors[0], "rb") as file:
        return picture_transfer.write_picture(decode_png_result(file.read()), descriptors[1])


def encode(task: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
    """Encode the image in the other descriptors into the shared memory of the last.

    Where the image's rows have been read, its memory is given back.
    """
    *sources, target = descriptors
    memories = [map_memory(each, protection=mmap.PROT_READ | mmap.PROT_WRITE) for each in sources]
    picture = read_picture(memories, task["picture"])
    with os.fdopen(target, "wb") as file:
        write_picture(picture, Options(**task["options"]), file)
    return {}


TASKS: dict[str, Callable[[dict[str, Any], list[int]], dict[str, Any]]] = {
    "check_header": check_header,
    "decode": decode,
    "decode_result": decode_result,
    "encode": encode,
}


class WarningCollector:
    """Counts warnings, and shows the first few: a file must not flood the log."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def note(self, message: Warning | str, *_others: object, **_more: object) -> None:
        """Replace `warnings.showwarning`."""
        shown = len(self._counts) < MAX_WARNINGS_SHOWN
        self._counts[str(message)[:MAX_WARNING_LENGTH] if shown else ""] += 1

    def summary(self) -> str:
        """Return the first warnings, and the total number."""
        texts = [text for text in self._counts if text]
        return f"{self._counts.total()} warnings: {'; '.join(texts)}" if self._counts else ""


def read_peak(status: int) -> int:
    """Return this process's peak resident memory in bytes, without mapped files.

    How much of a library is mapped at once, 40 MB or 70, is up to the kernel and depends on its
    page cache; it is not the process's own memory.

    Parameters
    ----------
    status : descriptor of the process's `/proc/self/status`
    """
    words = os.pread(status, STATUS_BYTES, 0).split()
    peak, files = (int(words[words.index(name) + 1]) for name in (b"VmHWM:", b"RssFile:"))
    return (peak - files) * 1024


def perform(
    task: dict[str, Any],
    connection: socket.socket,
    descriptors: list[int],
    confinement: Confinement,
    status: int,
) -> None:
    """Finish sandboxing this process, run a task, and send its outcome.

    Parameters
    ----------
    status : see `read_peak`
    """
    collector = WarningCollector()
    warnings.simplefilter("always")
    warnings.showwarning = collector.note
    before = read_peak(status)
    confinement.finish(Limits(**task["limits"]))
    reply: dict[str, Any] = {"locks": confinement.locks}
    try:
        reply["result"] = TASKS[task["name"]](task, descriptors)
    except ServiceError as error:
        excess = None if error.excess is None else asdict(error.excess)
        reply["refused"] = type(error).__name__, error.message, excess
    except MemoryError:
        reply["out_of_memory"] = True
    # A small task stays below the peak of the process's start while it maps more of a library.
    reply["peak_bytes"] = max(0, read_peak(status) - before)
    sys.stderr.write(collector.summary())
    sys.stderr.flush()
    connection.send(json.dumps(reply).encode())


def rehearse() -> None:
    """Use the most frequent decoder and encoders, before an image is there to wait for it.

    A forked process gets its pages one by one, when it first touches them: 200 of an image's 400
    faults are spared, 0.9 ms of each task (`bench/sandbox.py`).
    """
    picture = Picture(PIXELS_OF_WARM_UP, metadata=Metadata(dpi=(72, 72)))
    for options in (Options("jpeg", 50), Options()):
        decode_image(BytesIO(encode_picture(picture, options)))


def warm_up() -> None:
    """Use each decoder and encoder once: a sandboxed child cannot load anything later."""
    cv2.setNumThreads(1)
    for image_format in FORMATS:
        quality = None if image_format == "png" else 50
        for alpha in (None, PIXELS_OF_WARM_UP[:, :, 0]):
            picture = Picture(PIXELS_OF_WARM_UP, alpha, metadata=METADATA_OF_WARM_UP)
            decode_image(BytesIO(encode_picture(picture, Options(image_format, quality))))
    for image_format in ("TIFF", "BMP", "GIF"):
        buffer = BytesIO()
        Image.fromarray(PIXELS_OF_WARM_UP).save(buffer, image_format)
        decode_image(buffer)
    convert_to_srgb(Image.new("LAB", (8, 8)), None)
