"""`superres enhance`: upscales images, with a running service or without one."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from rich.console import Console

from superres.cli.batch import Enhancer, enhance_all, tell, tell_left_out
from superres.cli.picture_files import (
    Found,
    UnfitPaths,
    check_path,
    find_pictures,
    find_write_fault,
    show,
)
from superres.cli.service_answers import Unusable
from superres.cli.service_client import KEY_VARIABLE, RemoteEnhancer, check_url
from superres.errors import BadRequest
from superres.images.formats import FORMATS
from superres.images.options import (
    CLEANING_SCALE,
    FAITHFUL,
    MAX_QUALITY,
    MODEL_SCALE,
    MODES,
    RESTORE,
    SCALES,
    Options,
    read_options,
)

STREAM = Path("-")
DEFAULT_URL = "http://localhost:7860"
FORMAT_NAMES = list(
    dict.fromkeys(name for each in FORMATS.values() for name in (each.name, each.ending))
)
QUALITIES = ", ".join(
    f"{each.default_quality} for {each.name}" for each in FORMATS.values() if each.default_quality
)
LOSSLESS = " or ".join(each.name for each in FORMATS.values() if each.has_lossless)
EPILOG = f"""
A result is named after its image: photo_x3.png for photo.png, photo.jpg_x3.png for photo.jpg.
Results already in the output folder are kept, so the same command resumes after Ctrl-C.
In folders, hidden files are skipped, and files that are not images are listed at the end.

In a pipe: `superres enhance - -o - < photo.jpg > photo.png`.

\b
environment:
  {KEY_VARIABLE}     API key, if the service needs one
  SSL_CERT_FILE  PEM file of certificates to trust instead of the usual ones
  NO_PROXY       hosts to reach without HTTP_PROXY, HTTPS_PROXY or
                 ALL_PROXY

\b
exit codes:
  0    every image has its result
  1    an image failed, or the service cannot be used
  2    nothing was tried: wrong arguments, no image found, or an output folder
       that cannot be written to
  130  interrupted; run the same command to resume
"""


class GivenPath(click.Path):
    """A path that is not empty, as an unset variable of a shell is."""

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> Any:
        """Return the path."""
        if value == "":
            self.fail("a path is empty", parameter, context)
        return super().convert(value, parameter, context)


def make_enhancer(url: str, is_local: bool, given: dict[str, str], options: Options) -> Enhancer:
    """Return the enhancer that makes the results."""
    if is_local:
        # Imported here: a client of a service does not need it, and it takes a second to load.
        from superres.cli.local_enhancer import LocalEnhancer

        return LocalEnhancer(options)
    return RemoteEnhancer(url, given, os.environ.get(KEY_VARIABLE, "").strip())


def enhance_files(
    enhancer: Enhancer, found: Found, parallel: int, overwrite: bool, console: Console
) -> int:
    """Make the results of all images found; return the exit code."""
    wanted = [pair for pair in found.pictures if overwrite or not pair[1].exists()]
    started = time.monotonic()
    outcome = enhance_all(enhancer, wanted, parallel, console)
    tell_left_out(console, found)
    skipped = f", {len(found.skipped)} skipped" if found.skipped else ""
    tell(
        console,
        f"{outcome.made} of {len(wanted)} images upscaled in {time.monotonic() - started:.1f} s, "
        f"{len(found.pictures) - len(wanted)} already there{skipped}",
    )
    if outcome.words:
        tell(console, outcome.words, style="red")
    return outcome.code or (1 if found.unreadable else 0)


def read_standard_input(_source: Path) -> bytes:
    """Return what it holds; /dev/stdin cannot be opened where it is a socket, as in Node.js."""
    return sys.stdin.buffer.read()


def enhance_to_output(enhancer: Enhancer, source: Path, console: Console) -> int:
    """Write one image's result to standard output; return the exit code."""
    read: Callable[[Path], bytes] = Path.read_bytes
    if source == STREAM:
        source, read = Path("standard input"), read_standard_input
    with TemporaryDirectory() as folder:
        result = Path(folder) / "result"
        outcome = enhance_all(enhancer, [(source, result)], 1, console, read)
        if outcome.words:
            tell(console, outcome.words, style="red")
        if outcome.made:
            try:
                sys.stdout.buffer.write(result.read_bytes())
                sys.stdout.buffer.flush()
            except OSError as error:
                tell(console, f"standard output: {error.strerror}", style="red")
                # On exit, Python would flush again and print a traceback.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return 1
    return outcome.code


def check_stream(paths: tuple[Path, ...], output: Path) -> Path:
    """Return the one image whose result goes to standard output, `-` for standard input.

    Raises
    ------
    UnfitPaths
        `-` is used in some other way, or a stream is closed.
    """
    if output != STREAM:
        raise UnfitPaths("what is read from standard input goes to standard output: add -o -")
    if len(paths) > 1:
        raise UnfitPaths("standard output takes one image")
    # Python leaves out those that are closed.
    if sys.stdout is None or (STREAM in paths and sys.stdin is None):
        raise UnfitPaths("standard input or output is closed")
    if sys.stdout.isatty():
        raise UnfitPaths("a terminal cannot show images: redirect output to a file or a pipe")
    if paths[0] != STREAM and check_path(paths[0]):
        raise UnfitPaths("standard output takes one image, not a folder")
    return paths[0]


@click.command(epilog=EPILOG)
@click.argument("paths", nargs=-1, required=True, type=GivenPath(path_type=Path))
@click.option(
    *("-o", "--output"),
    type=GivenPath(path_type=Path),
    default=Path("enhanced"),
    show_default=True,
    metavar="FOLDER",
    help="Where the results go; - is standard output, for one image.",
)
@click.option("--url", default=DEFAULT_URL, show_default=True, help="Address of the service.")
@click.option("--local", "is_local", is_flag=True, help="Compute locally, without a service.")
@click.option(
    "--parallel",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Concurrent uploads.",
)
@click.option("--overwrite", is_flag=True, help="Replace existing results.")
@click.option(
    "--format",
    type=click.Choice(FORMAT_NAMES, case_sensitive=False),
    help="Format of the results, png by default.",
)
@click.option("--quality", type=click.IntRange(1, MAX_QUALITY), help=f"Default: {QUALITIES}.")
@click.option(
    "--mode",
    type=click.Choice(MODES),
    help=f"{FAITHFUL} by default; {RESTORE} removes noise, blur and the marks of compression.",
)
@click.option(
    "--scale",
    type=click.Choice([str(scale) for scale in (CLEANING_SCALE, *SCALES)]),
    help=f"How many times larger, {MODEL_SCALE} by default; 1 with --mode {RESTORE} only.",
)
@click.option(
    "--width",
    type=click.IntRange(min=1),
    help="Width of the result in pixels, instead of --scale; alone, it keeps the aspect ratio.",
)
@click.option("--height", type=click.IntRange(min=1), help="Height of the result; see --width.")
@click.option("--lossless", is_flag=True, help=f"Lossless compression, for {LOSSLESS}.")
def enhance(
    paths: tuple[Path, ...],
    output: Path,
    url: str,
    is_local: bool,
    parallel: int,
    overwrite: bool,
    **chosen: Any,
) -> None:
    """Upscale images, and folders of them."""
    # A shell that starts this in the background makes it ignore SIGINT.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    given = {name: str(value).lower() for name, value in chosen.items() if value}
    found = Found()
    try:
        options = read_options({name: [text] for name, text in given.items()})
        url = check_url(url)
        is_stream = STREAM in (output, *paths)
        if is_stream:
            source = check_stream(paths, output)
        else:
            found = find_pictures(list(paths), output, options.suffix)
    except BadRequest as error:
        raise click.UsageError(error.message) from None
    except (UnfitPaths, ValueError) as error:
        raise click.UsageError(str(error)) from None
    fault = None if is_stream else find_write_fault(output)
    if fault:
        raise click.UsageError(f"cannot write results to {show(output)}: {fault}")
    console = Console(stderr=True)
    try:
        enhancer = make_enhancer(url, is_local, given, options)
    except Unusable as error:
        tell(console, f"error: {error}", style="red")
        sys.exit(2)
    if is_stream:
        sys.exit(enhance_to_output(enhancer, source, console))
    sys.exit(enhance_files(enhancer, found, 1 if is_local else parallel, overwrite, console))
