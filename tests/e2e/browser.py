"""Headless Chromium, and pages of other origins for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from playwright.sync_api import Browser, sync_playwright

from testkit.serving import serving
from tests.e2e.nginx import HOST

# A name other than localhost, so that its pages are not a secure context.
INSECURE_HOST = "sr.test"
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--host-resolver-rules=MAP {INSECURE_HOST} 127.0.0.1, MAP {HOST} 127.0.0.1",
)


class Tab(Protocol):
    """What the tests for both browsers need from a tab."""

    def goto(self, url: str) -> None:
        """Open a page, and wait until it is loaded."""

    def reload(self) -> None:
        """Load the page again."""

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression, or of the promise that it returns."""

    def close(self) -> None:
        """Close the tab."""


class ChromiumTab:
    """A tab with its own storage."""

    def __init__(self, browser: Browser) -> None:
        self._page = browser.new_context().new_page()

    def goto(self, url: str) -> None:
        self._page.goto(url)

    def reload(self) -> None:
        self._page.reload()

    def evaluate(self, expression: str) -> Any:
        return self._page.evaluate(expression)

    def close(self) -> None:
        self._page.context.close()


@contextmanager
def run_chromium(*arguments: str, program: str = "chromium") -> Iterator[Browser]:
    """Run Debian's Chromium, with further arguments, until the block ends.

    The `program` "chromium-headless-shell", the same engine without the windows around it, takes
    half as long for the tests of a page.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=f"/usr/bin/{program}", args=[*ARGUMENTS, *arguments]
        )
        yield browser
        browser.close()


class EmptyPage(BaseHTTPRequestHandler):
    """An empty page of some origin."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><link rel=icon href=data:,><title>other</title>")

    def log_message(self, *_arguments: object) -> None:
        pass


@contextmanager
def run_site() -> Iterator[str]:
    """Serve an empty page on loopback; yield its origin."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), EmptyPage)
    with serving(server):
        yield f"http://127.0.0.1:{server.server_port}"
