"""Upscales with a service: looks the result up, or uploads the image and waits for it.

Each image starts with the same request: does its result exist? A failure there would hit every
image, so it ends the run. A host that has never responded is not retried: its address is wrong, or
it is not running. One that has responded before may be restarting.
"""

import random
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx

from superres.cli.service_answers import (
    EnhanceError,
    Interrupted,
    Unusable,
    explain_refusal,
    explain_silence,
    origin,
    read_json,
    read_picture,
)
from superres.store.result_name import generate_file_hash

# What the service returns when it is busy, and proxies while it restarts.
RETRIED = frozenset({429, 502, 503, 504})
MAX_ATTEMPTS = 8
MAX_PAUSE_SECONDS = 60.0
# How long the service holds a status request open until something changes.
POLL_SECONDS = 5
MIN_POLL_SECONDS = 1.0
# Not an argument: those are visible in the process list.
KEY_VARIABLE = "SR_API_KEY"
TIMEOUT = httpx.Timeout(60, read=300, connect=15)
MAX_PORT = 65_535
FIND_PATH = "/api/result"
UPLOAD_PATH = "/api/enhance"

# What precedes the host where the scheme is missing or incomplete: `//host`, `http:/host`.
HALF_SCHEME = re.compile(r"(?:(https?)(?=[:/]))?:?/*", re.IGNORECASE)

JOB_MEMBERS = ("status_url", "state", "progress", "tiles_done", "result", "problem")


def check_url(text: str) -> str:
    """Return a service's address without a trailing slash.

    Raises
    ------
    ValueError
        The text is not an address; the message shows what one looks like.
    """
    address = text.strip().removesuffix("/").removesuffix(UPLOAD_PATH)
    if is_address(address):
        return address
    start = HALF_SCHEME.match(address)
    assert start is not None
    rest = address[start.end() :]
    meant = f"{(start[1] or 'http').lower()}://{rest}"
    example = meant if is_address(meant) and "://" not in rest else "http://localhost:7860"
    raise ValueError(f"{text!r} is not the address of a service; one looks like {example}")


def is_address(text: str) -> bool:
    """Tell whether a text can be a service's address."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        return False
    is_web = url.scheme in {"http", "https"} and url.host and (url.port or 0) <= MAX_PORT
    return bool(is_web) and not url.query and not url.fragment


def make_client(base_url: str = "") -> httpx.Client:
    """Return a client that follows redirects.

    Raises
    ------
    Unusable
        The environment's proxy or certificates cannot be used.
    """
    try:
        return httpx.Client(base_url=base_url, timeout=TIMEOUT, follow_redirects=True)
    except OSError:
        raise Unusable("SSL_CERT_FILE or SSL_CERT_DIR names no certificates") from None
    except (ImportError, ValueError, httpx.InvalidURL):
        raise Unusable(
            "the proxy in HTTP_PROXY, HTTPS_PROXY or ALL_PROXY is of an unsupported kind: "
            "unset it, or set NO_PROXY to the host that is to be reached"
        ) from None


class RemoteEnhancer:
    """Upscales with a service.

    Parameters
    ----------
    url : of the service, as `check_url` returns it
    parameters : options of the results
    api_key : empty if the service needs none

    Raises
    ------
    Unusable
        The environment's proxy, certificates or key cannot be used.
    """

    def __init__(self, url: str, parameters: dict[str, str], api_key: str = "") -> None:
        self._parameters = parameters
        if not (api_key.isascii() and api_key.isprintable()):
            raise Unusable(f"{KEY_VARIABLE} contains characters that no API key has")
        # For the API only: results may be on another host.
        self._authorization = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = make_client(url)
        self._stopping = threading.Event()
        self._answered: set[str] = set()

    def enhance(self, content: bytes, report: Callable[[float], None]) -> bytes:
        """Return an image file's result.

        Raises
        ------
        EnhanceError
            The service rejects this image, or no longer responds.
        Unusable
            There is no usable service at the address, with this key.
        Interrupted
            `stop` was called.
        """
        query = {"sha256": generate_file_hash(content), **self._parameters}
        try:
            answer = self._ask("GET", FIND_PATH, params=query, headers=self._authorization)
        except EnhanceError as error:
            raise Unusable(str(error)) from None
        found = read_json(answer, "exists", "url")
        if answer.history:
            # The upload must go there directly: most redirects would turn it into a GET.
            new_url = str(answer.url.copy_with(query=None))
            self._client.base_url = httpx.URL(new_url.removesuffix(FIND_PATH))
        if found["exists"]:
            return self._fetch(found["url"])
        answer = self._ask(
            "POST",
            UPLOAD_PATH,
            params=self._parameters,
            content=content,
            headers={
                "Content-Type": "application/octet-stream",
                "Prefer": "respond-async, wait=2",
                **self._authorization,
            },
        )
        return self._wait(answer, report) if answer.status_code == 202 else read_picture(answer)

    def stop(self) -> None:
        """Make work in progress end with `Interrupted`."""
        self._stopping.set()

    def _fetch(self, url: Any) -> bytes:
        return read_picture(self._ask("GET", str(url)))

    def _wait(self, accepted: httpx.Response, report: Callable[[float], None]) -> bytes:
        """Wait for an accepted job; cancel it when the user stops."""
        status = read_json(accepted, *JOB_MEMBERS)
        url = str(status["status_url"])
        try:
            while status["state"] in {"queued", "running"}:
                report(float(status["progress"]))
                headers = {"Prefer": f"wait={POLL_SECONDS}", **self._authorization}
                before, asked_at = (status["state"], status["tiles_done"]), time.monotonic()
                status = read_json(self._ask("GET", url, headers=headers), *JOB_MEMBERS)
                # A service with too many waiting requests responds immediately.
                if before == (status["state"], status["tiles_done"]):
                    self._stopping.wait(max(MIN_POLL_SECONDS - time.monotonic() + asked_at, 0))
        except Interrupted:
            with suppress(httpx.RequestError):
                self._client.delete(url, headers=self._authorization)
            raise
        if status["state"] == "done":
            if not status["result"]:
                raise EnhanceError("its result was removed before it was fetched; try again")
            return self._fetch(status["result"])
        problem = status["problem"]
        words = problem.get("error") if isinstance(problem, dict) else None
        raise EnhanceError(str(words or f"the job was {status['state']}"))

    def _ask(self, method: str, url: str, **options: Any) -> httpx.Response:
        """Send a request; retry where the service is busy, or has stopped responding."""
        for attempt in range(MAX_ATTEMPTS):
            if self._stopping.is_set():
                raise Interrupted
            pause = min(2**attempt, MAX_PAUSE_SECONDS) * random.uniform(0.5, 1)  # noqa: S311
            try:
                answer = self._client.request(method, url, **options)
            except httpx.InvalidURL:
                raise EnhanceError("the service returned an invalid address") from None
            except httpx.RequestError as error:
                words = explain_silence(error)
                may_return = isinstance(error, httpx.TransportError)
                if not may_return or origin(error.request.url) not in self._answered:
                    raise EnhanceError(words) from None
            else:
                self._answered.add(origin(answer.url))
                if answer.is_success:
                    return answer
                words = explain_refusal(answer)
                if answer.status_code == 401:
                    raise Unusable(f"{words} Set the variable {KEY_VARIABLE} to a valid key.")
                if answer.status_code not in RETRIED:
                    raise EnhanceError(words)
                retry_after = answer.headers.get("Retry-After", "")
                if retry_after.isdecimal():
                    if answer.status_code == 429 and int(retry_after) > MAX_PAUSE_SECONDS:
                        raise EnhanceError(words)
                    pause = min(float(retry_after), MAX_PAUSE_SECONDS)
            if attempt < MAX_ATTEMPTS - 1:
                self._stopping.wait(pause)
        raise EnhanceError(words)
