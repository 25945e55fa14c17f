"""Enlarge pictures three times from the command line, by a running service or without one.

    python enhance.py photo.jpg folder/ -o out/ --url http://localhost:7860
    python enhance.py photo.jpg -o out/ --local

Where the service asks for an API key, it is taken from the variable SR_API_KEY.
Results are named like the pictures, `photo_x3.png`. What is in the output folder already
is not made again, so the same command goes on after Ctrl-C. Ends with 0; 1 when a picture failed;
2 when the arguments are wrong; 130 after Ctrl-C.
"""

import argparse
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from io import BytesIO
from pathlib import Path
from typing import Protocol

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from werkzeug.datastructures import MultiDict

from errors import BadRequest, ServiceError
from options import OPTION_NAMES, Options, read_options
from result_cache import generate_file_hash

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif"})
# What the service says when it is busy, and what proxies say when it restarts.
RETRIED = frozenset({429, 502, 503, 504})
MAX_ATTEMPTS = 8
MAX_PAUSE_SECONDS = 60.0
# How long the service holds a status request until something changes.
POLL_SECONDS = 5
MIN_POLL_SECONDS = 1.0
MAX_LOCAL_PIXELS = 400_000_000
# Not an argument: those can be seen in the list of processes.
KEY_VARIABLE = "SR_API_KEY"
TIMEOUT = httpx.Timeout(60, read=300)


class EnhanceError(Exception):
    """A picture that cannot be made; the text is for the user."""


class Interrupted(Exception):
    """Ctrl-C was pressed."""


class Report(Protocol):
    """Takes how far a picture is, from 0 to 1."""

    def __call__(self, share: float, /) -> None:
        """Note it."""


class RemoteEnhancer:
    """Enlarges by a service.

    Parameters
    ----------
    url : of the service
    parameters : options of the results
    stopping : set when no more shall be sent
    api_key : where the service asks for one
    """

    def __init__(
        self, url: str, parameters: dict[str, str], stopping: threading.Event, api_key: str = ""
    ) -> None:
        self._parameters = parameters
        # For the API only: results may be on another host.
        self._authorization = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.Client(base_url=url, timeout=TIMEOUT, follow_redirects=True)
        self._stopping = stopping

    def enhance(self, content: bytes, report: Report) -> bytes:
        """Return the result of a picture file."""
        key = generate_file_hash(content)
        query = {"sha256": key, **self._parameters}
        found = self._ask("GET", "/api/result", params=query, headers=self._authorization)
        if found.json()["exists"]:
            return self._ask("GET", found.json()["url"]).content
        answer = self._ask(
            "POST",
            "/api/enhance",
            params=self._parameters,
            content=content,
            headers={
                "Content-Type": "application/octet-stream",
                "Prefer": "respond-async, wait=2",
                **self._authorization,
            },
        )
        return answer.content if answer.status_code == 200 else self._wait(answer.json(), report)

    def _wait(self, status: dict[str, object], report: Report) -> bytes:
        """Wait for an accepted job; take it back when the user stops."""
        url = str(status["status_url"])
        try:
            while status["state"] in {"queued", "running"}:
                report(float(str(status["progress"])))
                headers = {"Prefer": f"wait={POLL_SECONDS}", **self._authorization}
                before, asked_at = (status["state"], status["tiles_done"]), time.monotonic()
                status = self._ask("GET", url, headers=headers).json()
                # A service with too many who wait answers at once.
                if before == (status["state"], status["tiles_done"]):
                    self._stopping.wait(max(MIN_POLL_SECONDS - time.monotonic() + asked_at, 0))
        except Interrupted:
            self._client.delete(url, headers=self._authorization)
            raise
        if status["state"] == "done" and status["result"]:
            return self._ask("GET", str(status["result"])).content
        problem = status["problem"]
        words = problem.get("error") if isinstance(problem, dict) else None
        raise EnhanceError(str(words or f"the job was {status['state']}"))

    def _ask(self, method: str, url: str, **options: object) -> httpx.Response:
        """Send a request; again where the service is busy or does not answer."""
        for attempt in range(MAX_ATTEMPTS):
            if self._stopping.is_set():
                raise Interrupted
            pause = min(2**attempt, MAX_PAUSE_SECONDS) * random.uniform(0.5, 1)  # noqa: S311
            try:
                answer = self._client.request(method, url, **options)  # type: ignore[arg-type]
            except httpx.TransportError as error:
                words = f"the service does not answer ({type(error).__name__})"
            else:
                if answer.is_success:
                    return answer
                words = explain(answer)
                if answer.status_code not in RETRIED:
                    raise EnhanceError(words)
                retry_after = answer.headers.get("Retry-After", "")
                if retry_after.isdecimal():
                    if answer.status_code == 429 and int(retry_after) > MAX_PAUSE_SECONDS:
                        raise EnhanceError(f"{words} Again in {retry_after} seconds.")
                    pause = min(float(retry_after), MAX_PAUSE_SECONDS)
            self._stopping.wait(pause)
        raise EnhanceError(words)


def explain(answer: httpx.Response) -> str:
    """Return an error's words; a proxy in front may not speak JSON."""
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"the service answered {answer.status_code}"


class LocalEnhancer:
    """Enlarges in this process; the bytes are those of the service."""

    def __init__(self, options: Options) -> None:
        from encoders import check_result_size, encode_picture
        from image_codec import decode_image
        from super_resolution import SuperResolution

        self._options = options
        self._check_size = check_result_size
        self._model = SuperResolution()
        self._decode, self._encode = decode_image, encode_picture

    def enhance(self, content: bytes, report: Report) -> bytes:
        """Return the result of a picture file."""
        try:
            picture = self._decode(BytesIO(content))
            report(0.1)
            size = self._options.result_size(*picture.size)
            self._check_size(*size, self._options, MAX_LOCAL_PIXELS)
            enlarged = self._model.enlarge(picture, self._options)
            return bytes(self._encode(enlarged, self._options))
        except ServiceError as error:
            raise EnhanceError(error.message) from None


def find_pictures(paths: list[Path], output: Path, suffix: str) -> Iterator[tuple[Path, Path]]:
    """Yield each picture with the path of its result; folders are searched to their depth."""
    found: list[tuple[Path, Path]] = []
    seen: set[Path] = set()
    for path in paths:
        if path.is_dir():
            files = (file for file in sorted(path.rglob("*")) if file.suffix.lower() in SUFFIXES)
            found += [(file, output / file.relative_to(path).parent / file.stem) for file in files]
        else:
            found.append((path, output / path.stem))
    stems = Counter(stem for _, stem in found)
    for file, stem in found:
        if file.resolve() in seen:
            continue
        seen.add(file.resolve())
        if not file.resolve().is_relative_to(output.resolve()):
            # photo.jpg beside photo.png: the ending tells them apart.
            name = file.name if stems[stem] > 1 else stem.name
            yield file, stem.with_name(name + suffix)


def write_result(path: Path, content: bytes) -> None:
    """Write a result so that an interrupted write leaves no half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def enhance_all(
    enhancer: RemoteEnhancer | LocalEnhancer,
    pictures: list[tuple[Path, Path]],
    parallel: int,
    stopping: threading.Event,
    console: Console,
) -> tuple[int, int]:
    """Make all results, some at once; return the exit code and how many were made."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    made = failed = 0
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor(parallel) as pool:
        total = progress.add_task("pictures", total=len(pictures))

        def make(source: Path, target: Path) -> None:
            bar = progress.add_task(source.name, total=100)
            try:
                if stopping.is_set():
                    raise Interrupted
                content = source.read_bytes()
                result = enhancer.enhance(
                    content, lambda share: progress.update(bar, completed=int(100 * share))
                )
                write_result(target, result)
            except OSError as error:
                raise EnhanceError(error.strerror or "cannot be read or written") from None
            except (ValueError, KeyError, MemoryError):
                raise EnhanceError("failed; is the address that of the service?") from None
            finally:
                progress.remove_task(bar)

        futures = {pool.submit(make, *picture): picture[0] for picture in pictures}
        try:
            for future in as_completed(futures):
                try:
                    future.result()
                    made += 1
                except EnhanceError as error:
                    failed += 1
                    console.print(f"{futures[future]}: {error}", style="red", markup=False)
                progress.advance(total)
        except KeyboardInterrupt:
            stopping.set()
            pool.shutdown(wait=True, cancel_futures=True)
            console.print("interrupted; the same command goes on")
            return 130, made
    return (1 if failed else 0), made


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Enlarge pictures three times.")
    parser.add_argument("paths", nargs="+", type=Path, help="pictures, and folders of them")
    parser.add_argument("-o", "--output", type=Path, default=Path("enhanced"), help="folder")
    parser.add_argument("--url", default="http://localhost:7860", help="of the service")
    parser.add_argument("--local", action="store_true", help="compute here, without a service")
    parser.add_argument("--parallel", type=int, default=4, help="uploads at once")
    parser.add_argument("--overwrite", action="store_true", help="make existing results anew")
    for name in OPTION_NAMES:
        parser.add_argument(f"--{name}", help="as the service's option of this name")
    chosen = parser.parse_args(arguments)
    given = {name: getattr(chosen, name) for name in OPTION_NAMES if getattr(chosen, name)}
    try:
        options = read_options(MultiDict(given))
    except BadRequest as error:
        parser.error(error.message)
    missing = [path for path in chosen.paths if not path.exists()]
    if missing:
        parser.error(f"there is no {missing[0]}")
    if chosen.parallel < 1:
        parser.error("--parallel must be at least 1")
    # A shell that starts this in the background has Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    stopping = threading.Event()
    console = Console(stderr=True)
    pictures = list(find_pictures(chosen.paths, chosen.output, options.suffix))
    for target, number in Counter(target for _, target in pictures).items():
        if number > 1:
            parser.error(f"{number} of the pictures would have the result {target}")
    wanted = [pair for pair in pictures if chosen.overwrite or not pair[1].exists()]
    started = time.monotonic()
    enhancer = (
        LocalEnhancer(options)
        if chosen.local
        else RemoteEnhancer(chosen.url, given, stopping, os.environ.get(KEY_VARIABLE, ""))
    )
    parallel = 1 if chosen.local else chosen.parallel
    code, made = enhance_all(enhancer, wanted, parallel, stopping, console)
    console.print(
        f"{made} of {len(wanted)} pictures made in {time.monotonic() - started:.1f} s, "
        f"{len(pictures) - len(wanted)} were there"
    )
    return code


if __name__ == "__main__":
    sys.exit(main())
