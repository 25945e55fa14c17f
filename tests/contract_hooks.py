"""What schemathesis cannot invent: images, and names of existing things (`test_contract.py`)."""

import itertools
import os
from io import BytesIO
from typing import Any

import schemathesis
from hypothesis import strategies
from PIL import Image
from schemathesis.hooks import HookContext

from testkit.heif_files import heic


def draw(image_format: str, side: int) -> bytes:
    """Return an image file."""
    buffer = BytesIO()
    Image.radial_gradient("L").resize((side, side)).convert("RGB").save(buffer, image_format)
    return buffer.getvalue()


PICTURES = [
    *(draw(image_format, 20) for image_format in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "AVIF")),
    heic(Image.radial_gradient("L").resize((20, 20)).convert("RGB")),
    draw("PNG", 60),
    *(draw(image_format, 60)[:200] for image_format in ("PNG", "JPEG", "AVIF")),
    b"no picture",
    b"",
]
MEDIA_TYPES = ("png", "jpeg", "webp", "tiff", "bmp", "avif", "heic", "heif", "gif")

# In turn, so that each is sent, whatever else is drawn.
in_turn = itertools.cycle(PICTURES)
pictures = strategies.builds(lambda: next(in_turn))
schemathesis.openapi.format("binary", pictures)
schemathesis.openapi.media_type("application/octet-stream", pictures)
for media_type in MEDIA_TYPES:
    schemathesis.openapi.media_type(f"image/{media_type}", pictures)


@schemathesis.hook
def map_path_parameters(
    _context: HookContext, path_parameters: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Replace every other generated name with an existing one."""
    for name, value in (path_parameters or {}).items():
        existing = os.environ[f"CONTRACT_{name.upper()}"].split()
        if len(str(value)) % 2 and path_parameters is not None:
            path_parameters[name] = existing[len(str(value)) // 2 % len(existing)]
    return path_parameters


@schemathesis.hook
def map_headers(_context: HookContext, headers: dict[str, Any] | None) -> dict[str, Any] | None:
    """Make every other generated preference ask for an asynchronous response."""
    if headers is not None and len(str(headers.get("Prefer", ""))) % 2:
        headers["Prefer"] = "respond-async"
    return headers
