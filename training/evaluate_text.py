r"""Count what tesseract misreads on small text that models have upscaled.

    python -m training.evaluate_text superres/models/EDSR_x3.pb superres/models/EDSR_x3_restore.pb

A model that invents detail changes letters. Four pages of this project's licence, drawn at 8 to 12
pixels, are read as they were drawn and damaged in five ways; the error is the share of characters
that are not read in order, in percent. Needs matplotlib's fonts, and Debian's tesseract-ocr.
"""

import argparse
import subprocess
import textwrap
from collections.abc import Callable
from difflib import SequenceMatcher
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

from training.degradations import AREA, BICUBIC, add_noise, blur, compress, reduce
from training.evaluate import Enlarge, enlarge_bicubic, make_enlarger
from training.network import SCALE

# Font, size in pixels, colours of paper and ink.
PAGES = (
    *(("DejaVu Serif", 8, "white", "black"), ("DejaVu Sans", 9, "white", "black")),
    *(("DejaVu Sans Mono", 10, "#202428", "#d8dee9"), ("DejaVu Serif", 12, "#f4ecd8", "#403020")),
)
COLUMNS, LINES = 58, 14
# Tesseract expects letters as tall as at 300 dots an inch: 12 pixels x3 are as 10 points at 250.
DOTS_AN_INCH = "250"


def draw_page(font_name: str, size: int, paper: str, ink: str, text: str) -> Image.Image:
    """Draw text at three times the size in pixels."""
    font = ImageFont.truetype(findfont(font_name), SCALE * size)
    line = SCALE * size * 4 // 3
    width = int(max(font.getlength(each) for each in text.splitlines())) + 2 * line
    rows = [side // SCALE * SCALE for side in (width, line * (LINES + 2))]
    page = Image.new("RGB", (rows[0], rows[1]), paper)
    drawing = ImageDraw.Draw(page)
    for number, words in enumerate(text.splitlines()):
        drawing.text((line, line * (number + 1)), words, ink, font)
    return page


def photograph(page: Image.Image) -> Image.Image:
    """Photograph a page by hand under a lamp: a little turned, darker to one side, noisy."""
    corner = page.getpixel((0, 0))
    turned = page.rotate(1.2, BICUBIC, fillcolor=corner)
    small = np.asarray(blur(reduce(turned, AREA), 0.6), np.float32)
    light = np.linspace(1, 0.6, small.shape[1], dtype=np.float32)[None, :, None]
    lit = Image.fromarray((small * light).round().astype(np.uint8))
    return compress(add_noise(lit, 5), 75)


DAMAGE: dict[str, Callable[[Image.Image], Image.Image]] = {
    "drawn": lambda page: reduce(page, AREA),
    "JPEG-50": lambda page: compress(reduce(page, AREA), 50),
    "noise": lambda page: compress(add_noise(reduce(page, AREA), 12), 85),
    "messenger": lambda page: compress(compress(blur(reduce(page, AREA), 0.5), 60), 40),
    "photograph": photograph,
}


def read_text(page: Image.Image) -> str:
    """Return what tesseract reads."""
    buffer = BytesIO()
    page.save(buffer, "PNG")
    command = ["tesseract", "-", "-", "--psm", "6", "--dpi", DOTS_AN_INCH]
    done = subprocess.run(command, input=buffer.getvalue(), capture_output=True, check=True)
    return done.stdout.decode()


def measure_error(read: str, written: str) -> float:
    """Return the share of the written characters that were not read in order, in percent."""
    first, second = ("".join(text.split()) for text in (written, read))
    matcher = SequenceMatcher(None, first, second, autojunk=False)
    found = sum(block.size for block in matcher.get_matching_blocks())
    return 100 * (1 - found / len(first))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, nargs="+", help="EDSR x3 as .pb, or .xml")
    arguments = parser.parse_args()

    licence = (Path(__file__).parents[1] / "LICENSE").read_text(encoding="utf-8")
    lines = textwrap.wrap(licence, COLUMNS)[:LINES]
    text = "\n".join(lines)
    pages = [draw_page(*each, text) for each in PAGES]
    enlargers: dict[str, Enlarge] = {"bicubic": enlarge_bicubic}
    enlargers |= {str(model): make_enlarger(model) for model in arguments.models}
    print(f"{'errors in %':<32}" + "".join(f"{name:>12}" for name in [*DAMAGE, "mean"]))
    for name, enlarge in enlargers.items():
        errors = [
            np.mean(
                [measure_error(read_text(enlarge(spoil(page))), "\n".join(lines)) for page in pages]
            )
            for spoil in DAMAGE.values()
        ]
        shown = "".join(f"{error:>12.1f}" for error in [*errors, np.mean(errors)])
        print(f"{name[-31:]:<32}{shown}", flush=True)


if __name__ == "__main__":
    main()
