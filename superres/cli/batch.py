"""Batches: images upscaled concurrently, with progress, until all are done or none can be."""

import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from errno import EDQUOT, ENOSPC, EROFS
from pathlib import Path
from typing import NamedTuple, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from superres.cli import INTERRUPTED
from superres.cli.picture_files import Found, Picture, show, write_result
from superres.cli.service_answers import EnhanceError, Unusable

MAX_NAMED = 20
NOTHING_MORE_CAN_BE_WRITTEN = frozenset({ENOSPC, EDQUOT, EROFS})


class Enhancer(Protocol):
    """Upscales image files; raises what `RemoteEnhancer` raises."""

    def enhance(self, content: bytes, report: Callable[[float], None]) -> bytes:
        """Return an image file's result."""

    def stop(self) -> None:
        """Make work in progress end soon."""


class Outcome(NamedTuple):
    """How a run ended: exit code, number of results made, and why it ended early."""

    code: int
    made: int
    words: str = ""


def enhance_all(
    enhancer: Enhancer,
    pictures: list[tuple[Picture, Path]],
    parallel: int,
    console: Console,
) -> Outcome:
    """Make all results, several at a time."""
    columns = (
        # File names are not markup: they may contain brackets.
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    failed = 0
    futures: dict[Future[None], Picture] = {}
    with (
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
        ThreadPoolExecutor(parallel) as pool,
    ):
        total = progress.add_task("images", total=len(pictures))

        def make(picture: Picture, target: Path) -> None:
            bar = progress.add_task(show(picture.name), total=100)
            try:
                result = enhancer.enhance(
                    picture.read_bytes(),
                    lambda share: progress.update(bar, completed=int(100 * share)),
                )
                write_result(target, result)
            except OSError as error:
                words = error.strerror or "cannot be read or written"
                if error.errno in NOTHING_MORE_CAN_BE_WRITTEN:
                    raise Unusable(f"{show(target.parent)}: {words}") from None
                raise EnhanceError(words) from None
            except MemoryError:
                raise EnhanceError("not enough memory") from None
            finally:
                progress.remove_task(bar)

        def end(code: int, words: str = "") -> Outcome:
            pool.shutdown(wait=True, cancel_futures=True)
            # Includes those that finished after the decision to stop.
            ended = [each for each in futures if each.done() and not each.cancelled()]
            return Outcome(code, sum(each.exception() is None for each in ended), words)

        try:
            for picture, target in pictures:
                futures[pool.submit(make, picture, target)] = picture
            for future in as_completed(futures):
                try:
                    future.result()
                except EnhanceError as error:
                    failed += 1
                    tell(console, f"{show(str(futures[future]))}: {error}", style="red")
                progress.advance(total)
        except Unusable as error:
            enhancer.stop()
            return end(1, f"error: {error}")
        except KeyboardInterrupt:
            # Work in progress may wait minutes for a response.
            signal.signal(signal.SIGINT, lambda *_: end_at_once(console))
            # `timeout` sends a second one, to the process group.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            tell(console, "stopping; press Ctrl-C again to quit now")
            enhancer.stop()
            return end(INTERRUPTED, "interrupted; run the same command to resume")
        return end(1 if failed else 0)


def end_at_once(console: Console) -> None:
    """End the process, whatever its threads are waiting for."""
    console.show_cursor()
    os._exit(INTERRUPTED)


def tell(console: Console, words: str, style: str = "") -> None:
    """Print a line unchanged, however narrow the terminal."""
    console.print(words, style=style, markup=False, highlight=False, soft_wrap=True)


def tell_left_out(console: Console, found: Found) -> None:
    """List what was found but not upscaled."""
    for path in found.unreadable:
        tell(console, f"{show(path)}: cannot be searched", style="red")
    for path, words in found.skipped[:MAX_NAMED]:
        tell(console, f"{show(path)}: skipped, {words}")
    if len(found.skipped) > MAX_NAMED:
        tell(console, f"and {len(found.skipped) - MAX_NAMED} more")
