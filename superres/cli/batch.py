"""Many images: some at once, with progress, until all are made or nothing more can be."""

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

from superres.cli.picture_files import Found, show, write_result
from superres.cli.service_answers import EnhanceError, Unusable

MAX_NAMED = 20
INTERRUPTED = 130
NOTHING_MORE_CAN_BE_WRITTEN = frozenset({ENOSPC, EDQUOT, EROFS})


class Enhancer(Protocol):
    """Makes results of image files; raises as `RemoteEnhancer` does."""

    def enhance(self, content: bytes, report: Callable[[float], None]) -> bytes:
        """Return the result of an image file."""

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
