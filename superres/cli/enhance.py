"""Enlarge pictures from the command line, by a running service or without one.

    python enhance.py photo.jpg folder/ -o out/ --url http://localhost:7860
    python enhance.py photo.jpg -o out/ --local

`--help` says the rest.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from errno import EDQUOT, ENOSPC, EROFS
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from superres.settings import PROJECT_DIR

try:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from superres.cli.service_answers import EnhanceError, Unusable
    from superres.cli.service_client import KEY_VARIABLE, RemoteEnhancer, check_url
except ModuleNotFoundError as missing:
    needed = PROJECT_DIR / "requirements-client.txt"
    print(
        f"enhance.py needs {missing.name}: {sys.executable} -m pip install -r {needed}",
        file=sys.stderr,
    )
    sys.exit(2)

from superres.cli.local_enhancer import LocalEnhancer
from superres.cli.picture_files import (
    Found,
    UnfitPaths,
    find_pictures,
    find_write_fault,
    show,
    write_result,
)
from superres.errors import BadRequest
from superres.images.formats import FORMATS
from superres.images.options import (
    MAX_QUALITY,
    MODEL_SCALE,
    OPTION_NAMES,
    SCALES,
    Options,
    read_options,
)

DEFAULT_URL = "http://localhost:7860"
MAX_NAMED = 20
INTERRUPTED = 130
NOTHING_MORE_CAN_BE_WRITTEN = frozenset({ENOSPC, EDQUOT, EROFS})
EPILOG = f"""
A result is named after its picture: photo_x3.png for photo.png, photo.jpg_x3.png for photo.jpg.
What is in the output folder already is not made again, so the same command resumes after Ctrl-C.
In folders, hidden files are left out and files that are no pictures are named at the end.

environment:
  {KEY_VARIABLE}     API key, where the service asks for one
  SSL_CERT_FILE  PEM file of certificates to trust instead of the usual ones
  NO_PROXY       hosts that are not asked by HTTP_PROXY, HTTPS_PROXY or ALL_PROXY

exit codes:
  0    every picture has its result
  1    a picture failed, or the service cannot be used
  2    nothing was tried: wrong arguments, no picture found, an output folder
       that cannot be written to, a missing package
  130  interrupted; the same command goes on
"""


class Enhancer(Protocol):
    """Makes results of picture files; raises as `RemoteEnhancer` does."""

    def enhance(self, content: bytes, report: Callable[[float], None]) -> bytes:
        """Return the result of a picture file."""

    def stop(self) -> None:
        """Let what is under way end soon."""


class Outcome(NamedTuple):
    """How a run ended: its exit code, how many were made, why it ended before its time."""

    code: int
    made: int
    words: str = ""


def enhance_all(
    enhancer: Enhancer, pictures: list[tuple[Path, Path]], parallel: int, console: Console
) -> Outcome:
    """Make all results, some at once."""
    columns = (
        # Names are no markup: there may be brackets in them.
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    failed = 0
    futures: dict[Future[None], Path] = {}
    with (
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
        ThreadPoolExecutor(parallel) as pool,
    ):
        total = progress.add_task("pictures", total=len(pictures))

        def make(source: Path, target: Path) -> None:
            bar = progress.add_task(show(Path(source.name)), total=100)
            try:
                result = enhancer.enhance(
                    source.read_bytes(),
                    lambda share: progress.update(bar, completed=int(100 * share)),
                )
                write_result(target, result)
            except OSError as error:
                words = error.strerror or "cannot be read or written"
                if error.errno in NOTHING_MORE_CAN_BE_WRITTEN:
                    raise Unusable(f"{show(target.parent)}: {words}") from None
                raise EnhanceError(words) from None
            except MemoryError:
                raise EnhanceError("takes more memory than there is") from None
            finally:
                progress.remove_task(bar)

        def end(code: int, words: str = "") -> Outcome:
            pool.shutdown(wait=True, cancel_futures=True)
            # Those too whose end came after the decision to stop.
            ended = [each for each in futures if each.done() and not each.cancelled()]
            return Outcome(code, sum(each.exception() is None for each in ended), words)

        try:
            for picture in pictures:
                futures[pool.submit(make, *picture)] = picture[0]
            for future in as_completed(futures):
                try:
                    future.result()
                except EnhanceError as error:
                    failed += 1
                    tell(console, f"{show(futures[future])}: {error}", style="red")
                progress.advance(total)
        except Unusable as error:
            enhancer.stop()
            return end(1, f"error: {error}")
        except KeyboardInterrupt:
            # What is under way may wait for an answer for minutes.
            signal.signal(signal.SIGINT, lambda *_: end_at_once(console))
            tell(console, "stopping; Ctrl-C once more ends at once")
            enhancer.stop()
            return end(INTERRUPTED, "interrupted; the same command goes on")
        return end(1 if failed else 0)


def end_at_once(console: Console) -> None:
    """End the process, whatever its threads wait for."""
    console.show_cursor()
    os._exit(INTERRUPTED)


def tell(console: Console, words: str, style: str = "") -> None:
    """Print a line as it is, however narrow the terminal."""
    console.print(words, style=style, markup=False, highlight=False, soft_wrap=True)


def tell_left_out(console: Console, found: Found) -> None:
    """Name what was found and not made."""
    for path in found.unreadable:
        tell(console, f"{show(path)}: cannot be searched", style="red")
    for path, words in found.skipped[:MAX_NAMED]:
        tell(console, f"{show(path)}: skipped, {words}")
    if len(found.skipped) > MAX_NAMED:
        tell(console, f"and {len(found.skipped) - MAX_NAMED} more")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=f"Enlarge pictures, {MODEL_SCALE} times if nothing else is said.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="+", type=Path, help="pictures, and folders of them")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("enhanced"),
        metavar="FOLDER",
        help="where the results go (enhanced)",
    )
    parser.add_argument("--url", default=DEFAULT_URL, help=f"of the service ({DEFAULT_URL})")
    parser.add_argument(
        "--local",
        action="store_true",
        help="compute here, without a service; needs requirements.txt",
    )
    parser.add_argument("--parallel", type=int, default=4, metavar="N", help="uploads at once (4)")
    parser.add_argument("--overwrite", action="store_true", help="make existing results anew")
    formats = FORMATS.values()
    qualities = [
        f"{each.default_quality} for {each.name}" for each in formats if each.default_quality
    ]
    lossless = " or ".join(each.name for each in formats if each.has_lossless)
    helps = {
        "format": f"{', '.join(FORMATS)} (png)",
        "quality": f"1 to {MAX_QUALITY} ({', '.join(qualities)})",
        "scale": f"{', '.join(map(str, SCALES))} ({MODEL_SCALE})",
        "width": "of the result in pixels, instead of --scale; alone it keeps the proportions",
        "height": "likewise",
        "lossless": f"true or false (false), for {lossless}",
    }
    for name in OPTION_NAMES:
        parser.add_argument(f"--{name}", metavar=name.upper(), help=helps[name])
    return parser


def make_enhancer(chosen: argparse.Namespace, given: dict[str, str], options: Options) -> Enhancer:
    """Return what makes the results."""
    if chosen.local:
        return LocalEnhancer(options)
    api_key = os.environ.get(KEY_VARIABLE, "").strip()
    return RemoteEnhancer(chosen.url, given, api_key)


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    # A shell that starts this in the background has Ctrl-C ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    parser = make_parser()
    chosen = parser.parse_args(arguments)
    given: dict[str, Any] = {
        name: getattr(chosen, name) for name in OPTION_NAMES if getattr(chosen, name)
    }
    if chosen.parallel < 1:
        parser.error("--parallel must be at least 1")
    try:
        options = read_options({name: [text] for name, text in given.items()})
        chosen.url = check_url(chosen.url)
        found = find_pictures(chosen.paths, chosen.output, options.suffix)
    except BadRequest as error:
        parser.error(error.message)
    except (UnfitPaths, ValueError) as error:
        parser.error(str(error))
    wanted = [pair for pair in found.pictures if chosen.overwrite or not pair[1].exists()]
    fault = find_write_fault(chosen.output)
    if fault:
        parser.error(f"no results can be written to {show(chosen.output)}: {fault}")
    console = Console(stderr=True)
    started = time.monotonic()
    try:
        enhancer = make_enhancer(chosen, given, options)
    except Unusable as error:
        tell(console, f"error: {error}", style="red")
        return 2
    outcome = enhance_all(enhancer, wanted, 1 if chosen.local else chosen.parallel, console)
    tell_left_out(console, found)
    skipped = f", {len(found.skipped)} skipped" if found.skipped else ""
    tell(
        console,
        f"{outcome.made} of {len(wanted)} pictures made in {time.monotonic() - started:.1f} s, "
        f"{len(found.pictures) - len(wanted)} were there{skipped}",
    )
    if outcome.words:
        tell(console, outcome.words, style="red")
    return outcome.code or (1 if found.unreadable else 0)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(INTERRUPTED)
