"""`superres enhance`: upscales images, with a running service or without one."""

import os
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from rich.console import Console

from superres.cli.batch import Enhancer, enhance_all, tell, tell_left_out
from superres.cli.downloads import Download, is_web_address
from superres.cli.picture_files import (
    Found,
    Picture,
    UnfitPaths,
    check_path,
    find_pictures,
    find_write_fault,
    show,
)
from superres.cli.result_options import FORMAT_NAMES, read_chosen, result_options
from superres.cli.service_answers import Unusable
from superres.cli.service_client import KEY_VARIABLE, RemoteEnhancer, check_url
from superres.errors import BadRequest
from superres.images.options import Options, read_options

STREAM = Path("-")
DEFAULT_URL = "http://localhost:7860"
EPILOG = f"""
A result is named after its image: photo_x3.png for photo.png, photo.jpg_x3.png for photo.jpg.
An image at a web address, https://example.com/photo.jpg, is fetched by this machine.
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


class GivenImage(GivenPath):
    """A path, or a web address."""

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> Any:
        """Return the path, or the image at the address."""
        if isinstance(value, str) and is_web_address(value):
            try:
                return Download(value)
            except ValueError as error:
                self.fail(str(error), parameter, context)
        return super().convert(value, parameter, context)


class StandardInput:
    """The image in standard input; /dev/stdin cannot be opened where it is a socket (Node.js)."""

    name = "standard input"

    def __str__(self) -> str:
        """Return what the user calls it."""
        return self.name

    def read_bytes(self) -> bytes:
        """Return what it holds."""
        return sys.stdin.buffer.read()


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


def enhance_to_output(enhancer: Enhancer, picture: Picture, console: Console) -> int:
    """Write one image's result to standard output; return the exit code."""
    with TemporaryDirectory() as folder:
        result = Path(folder) / "result"
        outcome = enhance_all(enhancer, [(picture, result)], 1, console)
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


def check_stream(images: tuple[Path | Picture, ...], output: Path) -> Picture:
    """Return the one image whose result goes to standard output.

    Raises
    ------
    UnfitPaths
        `-` is used in some other way, or a stream is closed.
    """
    if output != STREAM:
        raise UnfitPaths("what is read from standard input goes to standard output: add -o -")
    if len(images) > 1:
        raise UnfitPaths("standard output takes one image")
    # Python leaves out those that are closed.
    if sys.stdout is None or (STREAM in images and sys.stdin is None):
        raise UnfitPaths("standard input or output is closed")
    if sys.stdout.isatty():
        raise UnfitPaths("a terminal cannot show images: redirect output to a file or a pipe")
    (image,) = images
    if image == STREAM:
        return StandardInput()
    if isinstance(image, Path) and check_path(image):
        raise UnfitPaths("standard output takes one image, not a folder")
    return image


@click.command(epilog=EPILOG)
@click.argument("images", nargs=-1, required=True, type=GivenImage(path_type=Path))
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
@result_options
def enhance(
    images: tuple[Path | Picture, ...],
    output: Path,
    url: str,
    is_local: bool,
    parallel: int,
    overwrite: bool,
    **chosen: Any,
) -> None:
    """Upscale images: files, folders of them, and what is at web addresses."""
    # A shell that starts this in the background makes it ignore SIGINT.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    given = read_chosen(chosen)
    found = Found()
    try:
        options = read_options({name: [text] for name, text in given.items()})
        url = check_url(url)
        is_stream = STREAM in (output, *images)
        if is_stream:
            picture = check_stream(images, output)
        else:
            found = find_pictures(images, output, options.suffix)
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
        sys.exit(enhance_to_output(enhancer, picture, console))
    sys.exit(enhance_files(enhancer, found, 1 if is_local else parallel, overwrite, console))
