"""What schemathesis cannot invent: images, and what exists (`test_contract.py`)."""

import itertools
import os
from collections import Counter
from io import BytesIO
from typing import Any

import schemathesis
from hypothesis import strategies
from PIL import Image
from schemathesis import Case
from schemathesis.hooks import HookContext

from testkit.heif_files import heic
from testkit.source_server import Page


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
# What another server has, by path; and what addresses ask for that are signed.
SOURCES = {
    "/a.png": Page(PICTURES[0]),
    "/cut.jpg": Page(draw("JPEG", 60)[:200]),
    "/page.html": Page(b"<html></html>"),
    "/empty": Page(),
    "/large": Page(b"x", headers={"Content-Length": str(2**40)}),
}
SIGNED = (
    *(("/a.png", options) for options in ("scale:2,quality:80", "mode:restore", "fallback:source")),
    *((path, "scale:3") for path in (*SOURCES, "/missing")),
    *(("/missing", options) for options in ("fallback:source", "expires:1", "scale:9", "x")),
)
MEDIA_TYPES = ("png", "jpeg", "webp", "tiff", "bmp", "avif", "heic", "heif", "gif")

# In turn, so that each is sent, whatever else is drawn.
in_turn = itertools.cycle(PICTURES)
pictures = strategies.builds(lambda: next(in_turn))
calls: Counter[str] = Counter()
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
        existing = os.environ.get(f"CONTRACT_{name.upper()}", "").split()
        if existing and len(str(value)) % 2 and path_parameters is not None:
            path_parameters[name] = existing[len(str(value)) // 2 % len(existing)]
    return path_parameters


@schemathesis.hook
def before_call(_context: HookContext, case: Case[Any], _kwargs: dict[str, Any]) -> None:
    """Ask for the signed images in turn, and between them for what was generated."""
    if "signature" not in case.path_parameters:
        return
    images = os.environ["CONTRACT_IMAGES"].split()
    turn, is_generated = divmod(calls[case.method], 2)
    calls[case.method] += 1
    if not is_generated:
        parts = images[turn % len(images)].split("/")
        case.path_parameters |= zip(("signature", "options", "file"), parts, strict=True)


@schemathesis.hook
def map_headers(_context: HookContext, headers: dict[str, Any] | None) -> dict[str, Any] | None:
    """Make every other generated preference ask for an asynchronous response."""
    if headers is not None and len(str(headers.get("Prefer", ""))) % 2:
        headers["Prefer"] = "respond-async"
    return headers
