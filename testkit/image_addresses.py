"""Signed addresses of images at a little server, and what is answered at them."""

from io import BytesIO

from PIL import Image
from werkzeug.test import TestResponse

from superres.sources.signed_address import (
    ImageRequest,
    encode_base64,
    make_signature,
    sign_address,
)
from testkit.pictures import encode

KEY = "k" * 32


def picture(shade: int, mode: str = "RGB") -> bytes:
    """A grey PNG of 12x8 pixels; in mode RGBA, it is translucent."""
    colour = (shade, shade, shade, 128)[: len(mode)]
    return encode(Image.new(mode, (12, 8), colour), "PNG")


def shade_of(response: TestResponse) -> int:
    """Return the shade of a picture that was upscaled."""
    assert response.status_code == 200, response.data
    return shade_of_file(response.data)


def shade_of_file(content: bytes) -> int:
    """Return the shade of an upscaled picture's file."""
    shade = Image.open(BytesIO(content)).convert("L").getpixel((18, 12))
    assert isinstance(shade, int)
    return shade


def sign(
    source: str,
    image_format: str = "png",
    expires: int | None = None,
    falls_back: bool = False,
    key: str = KEY,
    **texts: str,
) -> str:
    """Return the path of a source's result."""
    return sign_address(key, ImageRequest(source, image_format, texts, expires, falls_back))


def sign_anything(source: str, options: str = "scale:2") -> str:
    """Return the path of a source's PNG, whatever the source is."""
    signed = f"{options}/{encode_base64(source.encode())}.png"
    return f"/image/{make_signature(KEY, signed)}/{signed}"
