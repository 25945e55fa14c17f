"""Pages of small text, for the restoring model: what it must not make other letters of.

Their fonts are matplotlib's, but for DejaVu, which `training.evaluate_text` reads; what they say is
Python's own manual.
"""

import string
from pathlib import Path
from pydoc_data.topics import topics

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from superres.images.pixels import Pixels
from training.drawings import OVERSAMPLING

FONTS = ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "cmr10", "cmss10", "cmtt10")
# In target pixels: 7 to 15 in the input.
SIZES = (20, 44)
LETTERS_A_LINE = 60
# Of pages that are turned as if scanned by hand, in degrees, and of those lit from one side.
TURNED_SHARE, MOST_TURN = 0.25, 4
LIT_SHARE, LEAST_LIGHT = 0.25, 0.4
MANUAL = " ".join(" ".join(topics[name] for name in sorted(topics)).split())
TEXT = "".join(letter for letter in MANUAL if letter in string.printable)


def load_font(size: int, random: np.random.Generator) -> ImageFont.FreeTypeFont:
    """Return one of the fonts, or Pillow's own."""
    number = int(random.integers(len(FONTS) + 2))
    if number >= len(FONTS):
        font = ImageFont.load_default(size)
        assert isinstance(font, ImageFont.FreeTypeFont)
        return font
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{FONTS[number]}.ttf"
    return ImageFont.truetype(str(path), size)


def draw_colours(random: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return paper and ink: mostly dark on light, or light on dark."""
    dark, light = random.integers(0, 70, 3).tolist(), random.integers(185, 256, 3).tolist()
    if random.random() < 0.55:
        return tuple(light), tuple(dark)
    if random.random() < 0.5:
        return tuple(dark), tuple(light)
    return tuple(random.integers(0, 256, 3).tolist()), tuple(random.integers(0, 256, 3).tolist())


def draw_page(side: int, random: np.random.Generator) -> Pixels:
    """Draw a square part of a page, (side, side, 3) uint8."""
    large, size = side * OVERSAMPLING, int(random.integers(*SIZES)) * OVERSAMPLING
    font = load_font(size, random)
    paper, ink = draw_colours(random)
    image = Image.new("RGB", (large, large), paper)
    draw = ImageDraw.Draw(image)
    top = int(random.integers(-size, size // 2))
    while top < large:
        start = int(random.integers(len(TEXT) - LETTERS_A_LINE))
        line = TEXT[start : start + LETTERS_A_LINE]
        draw.text((int(random.integers(-size, size // 2)), top), line, ink, font)
        top += int(size * random.uniform(1.15, 1.5))
    if random.random() < TURNED_SHARE:
        angle = random.uniform(-MOST_TURN, MOST_TURN)
        image = image.rotate(angle, Image.Resampling.BICUBIC, fillcolor=paper)
    page = np.asarray(image.resize((side, side), Image.Resampling.LANCZOS))
    if random.random() < LIT_SHARE:
        light = np.linspace(1, random.uniform(LEAST_LIGHT, 0.9), side)[None, :, None]
        page = (page * light).round().astype(np.uint8)
    return page
