"""Images drawn by code: text, line art and user-interface graphics.

People upload screenshots, logos and scans as well as photographs; a network trained only on
photographs produces ringing around letters and frayed edges of flat areas.
"""

import string

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from training.network import SCALE

LETTERS = np.array(list(string.ascii_letters + string.digits + string.punctuation))
OVERSAMPLING = 2
BAYER = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]])


def draw_colour(random: np.random.Generator) -> tuple[int, ...]:
    """Return a colour; black and white together are as frequent as all others."""
    if random.random() < 0.5:
        return (int(random.choice([0, 255])),) * 3
    return tuple(int(value) for value in random.integers(0, 256, 3))


def draw_text(draw: ImageDraw.ImageDraw, side: int, random: np.random.Generator) -> None:
    """Fill an image with lines of random words in one size."""
    size = int(random.integers(8, 40)) * OVERSAMPLING
    font = ImageFont.load_default(size)
    colour = draw_colour(random)
    top = int(random.integers(-size, size))
    while top < side:
        words = ["".join(random.choice(LETTERS, random.integers(2, 9))) for _ in range(12)]
        draw.text((int(random.integers(-20, 10)), top), " ".join(words), colour, font)
        top += int(size * random.uniform(1.1, 1.8))


def draw_shapes(draw: ImageDraw.ImageDraw, side: int, random: np.random.Generator) -> None:
    """Draw lines, boxes, ellipses and polygons over one another."""
    for _ in range(int(random.integers(6, 30))):
        points = random.integers(-side // 4, side * 5 // 4, (4, 2))
        width = int(random.integers(1, 8)) * OVERSAMPLING
        corners = [*points[:2].min(axis=0).tolist(), *points[:2].max(axis=0).tolist()]
        match random.integers(0, 5):
            case 0:
                draw.line(points.ravel().tolist(), draw_colour(random), width)
            case 1:
                draw.rectangle(corners, draw_colour(random), draw_colour(random), width)
            case 2:
                radius = int(random.integers(2, 30))
                draw.rounded_rectangle(corners, radius, draw_colour(random))
            case 3:
                draw.ellipse(corners, None, draw_colour(random), width)
            case _:
                draw.polygon(points.ravel().tolist(), draw_colour(random))


def draw_dither(side: int, random: np.random.Generator) -> Image.Image:
    """Draw a square RGB image of two colours, dithered pixel by pixel at a third of the size."""
    small = side // SCALE
    y, x = np.mgrid[:small, :small] / small
    angle = random.uniform(0, np.pi)
    level = random.uniform(0, 1) + random.uniform(-1, 1) * (np.cos(angle) * x + np.sin(angle) * y)
    threshold = random.uniform(size=level.shape)
    if random.random() < 0.7:  # ordered, after Bayer
        threshold = np.tile((BAYER + 0.5) / BAYER.size, (small // 4 + 1,) * 2)[:small, :small]
    colours = np.array([draw_colour(random), draw_colour(random)], np.uint8)
    image = Image.fromarray(colours[(level > threshold).astype(int)])
    return image.resize((side, side), Image.Resampling.NEAREST)


def draw_picture(side: int, random: np.random.Generator) -> Image.Image:
    """Draw a square RGB image of text, shapes, text over shapes, or one colour; antialiased."""
    large = side * OVERSAMPLING
    image = Image.new("RGB", (large, large), draw_colour(random))
    draw = ImageDraw.Draw(image)
    kind = random.integers(0, 10)
    if kind in range(3, 9):
        draw_shapes(draw, large, random)
    if kind in range(6):
        draw_text(draw, large, random)
    return image.resize((side, side), Image.Resampling.LANCZOS)
