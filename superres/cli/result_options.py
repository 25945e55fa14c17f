"""Options of results, the same for every command that has results made."""

from collections.abc import Callable
from typing import Any

import click

from superres.images.formats import FORMATS
from superres.images.options import (
    CLEANING_SCALE,
    FAITHFUL,
    MAX_QUALITY,
    MODEL_SCALE,
    MODES,
    RESTORE,
    SCALES,
)

FORMAT_NAMES = list(
    dict.fromkeys(name for each in FORMATS.values() for name in (each.name, each.ending))
)
QUALITIES = ", ".join(
    f"{each.default_quality} for {each.name}" for each in FORMATS.values() if each.default_quality
)
LOSSLESS = " or ".join(each.name for each in FORMATS.values() if each.has_lossless)

OPTIONS = (
    click.option("--quality", type=click.IntRange(1, MAX_QUALITY), help=f"Default: {QUALITIES}."),
    click.option(
        "--mode",
        type=click.Choice(MODES),
        help=f"{FAITHFUL} by default; {RESTORE} removes noise, blur and the marks of compression.",
    ),
    click.option(
        "--scale",
        type=click.Choice([str(scale) for scale in (CLEANING_SCALE, *SCALES)]),
        help=f"How many times larger, {MODEL_SCALE} by default; 1 with --mode {RESTORE} only.",
    ),
    click.option(
        "--width",
        type=click.IntRange(min=1),
        help="Width of the result in pixels, instead of --scale; alone, it keeps the aspect ratio.",
    ),
    click.option("--height", type=click.IntRange(min=1), help="Height of the result; see --width."),
    click.option("--lossless", is_flag=True, help=f"Lossless compression, for {LOSSLESS}."),
)


def result_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command: a decorator."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def read_chosen(chosen: dict[str, Any]) -> dict[str, str]:
    """Return the options that were given, as `read_options` reads them."""
    return {name: str(value).lower() for name, value in chosen.items() if value}
