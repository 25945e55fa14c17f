"""What a client can choose about a result: its model, format and size."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from superres.errors import BadRequest
from superres.images.formats import FORMATS, Format, find_format

# The first is the default: it adds nothing to an image. The other removes what has damaged it.
FAITHFUL, RESTORE = MODES = ("faithful", "restore")
MODEL_SCALE = 3
SCALES = (2, 3, 4)
# The image at its own size, without its damage.
CLEANING_SCALE = 1
MAX_QUALITY = 100
MAX_DIGITS = 9


@dataclass(frozen=True)
class Options:
    """The options of one result; all of them are part of its name.

    Attributes
    ----------
    format : one of the names in `FORMATS`
    quality : of a lossy format, 1 to 100; None if lossless
    scale : how many times larger; None if width or height is given
    width, height : of the result in pixels; one alone keeps the aspect ratio
    mode : one of `MODES`
    """

    format: str = "png"
    quality: int | None = None
    scale: int | None = MODEL_SCALE
    width: int | None = None
    height: int | None = None
    mode: str = FAITHFUL

    def as_dict(self) -> dict[str, Any]:
        """Return the options as stored in the jobs table, and as parts of a result's name.

        Older versions, which know only the default mode, can compute jobs that do not name it.
        """
        options = asdict(self)
        if self.mode == FAITHFUL:
            del options["mode"]
        return options

    @property
    def suffix(self) -> str:
        """The end of the result's file name: `_x3.png`, `_800w.webp`, `_restored_x3.png`."""
        mode = "" if self.mode == FAITHFUL else "_restored"
        ending = FORMATS[self.format].ending
        if self.scale is not None:
            return f"{mode}_x{self.scale}.{ending}"
        if self.width is not None and self.height is not None:
            return f"{mode}_{self.width}x{self.height}.{ending}"
        size = f"{self.width}w" if self.width is not None else f"{self.height}h"
        return f"{mode}_{size}.{ending}"

    def result_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the result's width and height for those of an upright input, in pixels."""
        if self.scale is not None:
            return width * self.scale, height * self.scale
        if self.width is not None and self.height is not None:
            return self.width, self.height
        if self.width is not None:
            return self.width, max(round(height * self.width / width), 1)
        assert self.height is not None
        return max(round(width * self.height / height), 1), self.height


def list_scales(mode: str) -> tuple[int, ...]:
    """Return how many times larger a result of a mode can be."""
    return (CLEANING_SCALE, *SCALES) if mode == RESTORE else SCALES


DEFAULT_OPTIONS = Options()
OPTION_NAMES = (*(field.name for field in fields(Options)), "lossless")


def find_unknown(kept: Mapping[str, Any], modes: Collection[str]) -> list[str]:
    """Return which options stored in the jobs table only another process can take.

    Parameters
    ----------
    modes : those that this process has a model for

    Returns
    -------
    Names of options and of a format that a newer version knows, and of a mode without a model.
    """
    known = {field.name for field in fields(Options)}
    unknown = [name for name in kept if name not in known]
    for name, default, known_values in (
        ("format", Options.format, FORMATS),
        ("mode", Options.mode, modes),
    ):
        value = str(kept.get(name, default))
        if value not in known_values:
            unknown.append(value)
    return unknown


def read_whole_number(name: str, text: str, least: int, most: int) -> int:
    """Read a numeric option."""
    if not re.fullmatch("-?[0-9]+", text):
        raise BadRequest(f"{name} must be a whole number, not {text[:20]!r}.")
    if len(text) > MAX_DIGITS or not least <= int(text) <= most:
        raise BadRequest(f"{name} must be from {least} to {most:,}.")
    return int(text)


def refuse_unknown(
    names: Iterable[str], known: Sequence[str], besides: Collection[str] = ()
) -> None:
    """Reject unknown options: a misspelt one would silently give a different result.

    Names that begin with `_` pass; libraries add them to queries, and forms do (`_charset_`).

    Raises
    ------
    BadRequest
        An option does not exist; the message names it, and those that do.
    """
    for name in names:
        if name not in known and name not in besides and not name.startswith("_"):
            raise BadRequest(
                f"There is no option {name[:40]!r}; the options are {', '.join(known)}."
            )


def read_texts(
    values: Mapping[str, Sequence[str]],
    files: Collection[str],
    known: Sequence[str],
    besides: Collection[str] = (),
) -> dict[str, str]:
    """Return the text of each option that is given.

    Parameters
    ----------
    values : texts of form fields and query parameters by name
    files : names of fields that were sent as files, which options must not be
    known : names of the options
    besides : names that are allowed but are not options

    Raises
    ------
    BadRequest
        An option does not exist, is given twice, or was sent as a file.
    """
    refuse_unknown([*values, *files], known, besides)
    for name in (*known, *besides):
        if name in files:
            raise BadRequest(f"{name} was sent as a file; send it as text.")
    given: dict[str, str] = {}
    for name in known:
        texts = values.get(name, ())
        if len(texts) > 1:
            raise BadRequest(f"{name} is given {len(texts)} times.")
        if texts and texts[0]:  # an empty form field counts as not given
            given[name] = texts[0].lower()
    return given


def read_options(
    values: Mapping[str, Sequence[str]],
    files: Collection[str] = (),
    besides: Collection[str] = (),
) -> Options:
    """Read the options from form fields or query parameters: see `read_texts`.

    Raises
    ------
    BadRequest
        As there; or a value is invalid, or cannot be combined with another; the message names the
        field.
    """
    given = read_texts(values, files, OPTION_NAMES, besides)

    def number(name: str, least: int, most: int) -> int | None:
        return read_whole_number(name, given[name], least, most) if name in given else None

    image_format = find_format(given.get("format", "png"))
    if image_format is None:
        raise BadRequest(f"format must be one of {', '.join(FORMATS)}.")
    quality = read_quality(image_format, given, number)
    mode = given.get("mode", FAITHFUL)
    if mode not in MODES:
        raise BadRequest(f"mode must be one of {', '.join(MODES)}.")
    width, height = (number(name, 1, 10**MAX_DIGITS - 1) for name in ("width", "height"))
    scale = number("scale", CLEANING_SCALE, max(SCALES))
    if scale is not None and scale not in list_scales(mode):
        raise BadRequest(f"scale={CLEANING_SCALE} is for mode={RESTORE}: it cleans an image.")
    if width is None and height is None:
        scale = scale or MODEL_SCALE
    elif scale is not None:
        raise BadRequest("scale cannot be combined with width or height.")
    return Options(image_format.name, quality, scale, width, height, mode)


def read_quality(
    image_format: Format, given: dict[str, str], number: Callable[[str, int, int], int | None]
) -> int | None:
    """Return the quality of a lossy result; None if lossless."""
    lossless = given.get("lossless", "false")
    if lossless not in {"true", "false"}:
        raise BadRequest("lossless must be true or false.")
    if lossless == "true" and not image_format.has_lossless:
        raise BadRequest(f"lossless cannot be combined with format={image_format.name}.")
    quality = number("quality", 1, MAX_QUALITY)
    if image_format.default_quality is None or lossless == "true":
        if quality is not None:
            raise BadRequest("quality cannot be combined with a lossless result.")
        return None
    return quality or image_format.default_quality
