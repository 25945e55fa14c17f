"""Images for the command line: finds them in folders, and names their results."""

import os
import re
import stat
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from superres.images.formats import FORMATS
from superres.images.input_formats import INPUT_FORMATS

ENDINGS = frozenset(f".{ending}" for each in INPUT_FORMATS for ending in each.endings)
RESULT_NAME = re.compile(
    rf"_(?:x\d|\d+x\d+|\d+[wh])\.(?:{'|'.join(each.ending for each in FORMATS.values())})"
)


class UnfitPaths(Exception):
    """The given paths cannot be upscaled as they are; the text is for the user."""


class Picture(Protocol):
    """An image file: a path, or what is elsewhere.

    As text, it is what the user calls it.
    """

    @property
    def name(self) -> str:
        """The file's own name."""

    def read_bytes(self) -> bytes:
        """Return its content; raise OSError, or an `EnhanceError` that says what is wrong."""


@dataclass
class Found:
    """What was found at the given paths.

    Attributes
    ----------
    pictures : each with the path of its result
    skipped : what is left out, and why: files that are not images, links to folders
    unreadable : folders that cannot be searched
    """

    pictures: list[tuple[Picture, Path]] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    unreadable: list[Path] = field(default_factory=list)


def find_pictures(given: Sequence[Path | Picture], output: Path, suffix: str) -> Found:
    """Return the images at some paths; folders are searched recursively.

    Hidden files are left out, and so are files in the output folder that are named like results.

    Parameters
    ----------
    given : paths, and images that are elsewhere
    suffix : end of a result's name, such as `_x3.png`

    Raises
    ------
    UnfitPaths
        A path does not exist, there is no image, or two images would have the same result.
    """
    found = Found()
    seen: set[Path | str] = set()
    whole_output = output.resolve()
    for path in given:
        if not isinstance(path, Path):
            if str(path) not in seen:
                found.pictures.append((path, output / name_result(Path(path.name), suffix)))
            seen.add(str(path))
            continue
        is_folder = check_path(path)
        files = list(search(path, found)) if is_folder else [path]
        if not files:
            cause = "cannot be searched" if path in found.unreadable else "contains no image"
            raise UnfitPaths(f"the folder {show(path)} {cause}")
        for file in files:
            place = file.resolve()
            is_result = RESULT_NAME.search(file.name) and place.is_relative_to(whole_output)
            if place in seen or is_result:
                continue
            seen.add(place)
            folder = output / file.relative_to(path).parent if is_folder else output
            found.pictures.append((file, folder / name_result(file, suffix)))
    if not found.pictures:
        raise UnfitPaths(f"only results were found, in the output folder {show(output)}")
    for target, number in Counter(target for _, target in found.pictures).items():
        if number > 1:
            raise UnfitPaths(
                f"{number} of the images would have the same result {show(target)}: upscale them "
                "separately, each with its own -o"
            )
    return found


def check_path(path: Path) -> bool:
    """Tell whether an existing path is a folder."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        raise UnfitPaths(f"{show(path)} does not exist") from None
    except (OSError, ValueError):
        raise UnfitPaths(f"{show(path)} cannot be read") from None


def search(folder: Path, found: Found) -> Iterator[Path]:
    """Yield the images in a folder and its subfolders; note what else is there."""

    def note(error: OSError) -> None:
        found.unreadable.append(Path(error.filename))

    for place, folders, names in os.walk(folder, onerror=note):
        shown = sorted(name for name in folders if not name.startswith("."))
        # Not followed, as by `cp -r` and `grep -r`: links may form loops.
        links = {name for name in shown if (Path(place) / name).is_symlink()}
        folders[:] = [name for name in shown if name not in links]
        found.skipped += [(Path(place) / name, "a link to a folder") for name in sorted(links)]
        for name in sorted(names):
            if name.startswith("."):  # `._photo.jpg` too: macOS's metadata of a file
                continue
            path = Path(place) / name
            # A dangling link is tried, and reported by name; reading a pipe would block forever.
            is_file = path.is_file() or not path.exists()
            if is_file and path.suffix.lower() in ENDINGS:
                yield path
            else:
                found.skipped.append((path, "not an image"))


def name_result(picture: Path, suffix: str) -> str:
    """Return the name of an image's result: `photo_x3.png` for photo.png.

    It depends on the image's own name alone, never on other files in the folder. So an extension
    other than the result's is kept: photo.jpg becomes `photo.jpg_x3.png`.
    """
    is_same = picture.suffix == Path(suffix).suffix
    # photo.jpg.png must not take the name of photo.jpg.
    is_single = Path(picture.stem).suffix.lower() not in ENDINGS
    return (picture.stem if is_same and is_single else picture.name) + suffix


def show(path: Path | str) -> str:
    """Return a text safe to print on a terminal: undecodable bytes and controls are escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def find_write_fault(folder: Path) -> str | None:
    """Return why a folder, created if needed, cannot take results; None if it can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except FileExistsError:
        return "it is not a folder"
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or "it cannot be written to"
    return None


def write_result(path: Path, content: bytes) -> None:
    """Write a result atomically: an interrupted write leaves no partial file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not derived from the result's name, which may already have the maximum length.
    temporary = path.with_name(f".enhance-{os.getpid()}-{threading.get_ident()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
