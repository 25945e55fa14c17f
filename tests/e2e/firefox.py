"""Headless Firefox ESR, controlled with WebDriver BiDi, which is built in."""

import base64
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.exceptions import InvalidMessage
from websockets.sync.client import ClientConnection, connect

from testkit.service import find_free_port
from testkit.waiting import START_SECONDS
from tests.e2e.nginx import HOST

STARTS = 3
# Disables requests that it would send at startup; the tests' name is on loopback.
PREFERENCES = {
    "app.normandy.enabled": False,
    "app.update.enabled": False,
    "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False,
    "browser.search.update": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "extensions.update.enabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "network.dns.localDomains": HOST,
    "services.settings.server": "",
    "toolkit.telemetry.enabled": False,
}


def to_python(value: dict[str, Any]) -> Any:
    """Convert a BiDi remote value to Python."""
    if value["type"] == "array":
        return [to_python(item) for item in value["value"]]
    if value["type"] == "object":
        return {key: to_python(item) for key, item in value["value"]}
    return value.get("value")


class Firefox:
    """A session with a running Firefox."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._number = 0
        # Nginx's certificate is its own (nginx.py).
        self.call("session.new", capabilities={"alwaysMatch": {"acceptInsecureCerts": True}})

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result; events are ignored."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        self._socket.send(json.dumps(command))
        while True:
            answer = json.loads(self._socket.recv(timeout=60))
            if answer.get("id") == self._number:
                assert answer["type"] == "success", answer
                result: dict[str, Any] = answer["result"]
                return result

    def open_tab(self) -> "FirefoxTab":
        """Open a tab with its own storage."""
        user = self.call("browser.createUserContext")["userContext"]
        context = self.call("browsingContext.create", type="tab", userContext=user)["context"]
        return FirefoxTab(self, context)


class FirefoxTab:
    """A tab; see `tests.e2e.browser.Tab`."""

    def __init__(self, firefox: Firefox, context: str) -> None:
        self._firefox = firefox
        self._context = context

    def goto(self, url: str) -> None:
        self._firefox.call(
            "browsingContext.navigate", context=self._context, url=url, wait="complete"
        )

    def reload(self) -> None:
        self._firefox.call("browsingContext.reload", context=self._context, wait="complete")

    def evaluate(self, expression: str) -> Any:
        answer = self._firefox.call(
            "script.evaluate",
            expression=expression,
            target={"context": self._context},
            awaitPromise=True,
        )
        assert answer["type"] == "success", answer
        return to_python(answer["result"])

    def close(self) -> None:
        self._firefox.call("browsingContext.close", context=self._context)

    def set_files(self, selector: str, *paths: Path) -> None:
        """Choose files in a file picker."""
        found = self._firefox.call(
            "browsingContext.locateNodes",
            context=self._context,
            locator={"type": "css", "value": selector},
        )
        element = {"sharedId": found["nodes"][0]["sharedId"]}
        self._firefox.call(
            "input.setFiles",
            context=self._context,
            element=element,
            files=[str(path) for path in paths],
        )

    def drag(self, pointer: str, *points: tuple[float, float]) -> None:
        """Press a "mouse" or put down a "touch" at the first point, and drag it to the others."""
        first, *others = [{"type": "pointerMove", "x": round(x), "y": round(y)} for x, y in points]
        steps = [first, {"type": "pointerDown", "button": 0}, *others]
        source = {"type": "pointer", "id": pointer, "parameters": {"pointerType": pointer}}
        self._act(source, [*steps, {"type": "pointerUp", "button": 0}])

    def scroll(self, x: float, y: float, pixels: int) -> None:
        """Turn the wheel over a point."""
        step = {"type": "scroll", "x": round(x), "y": round(y), "deltaX": 0, "deltaY": pixels}
        self._act({"type": "wheel", "id": "wheel"}, [step])

    def press(self, *keys: str) -> None:
        """Press keys, one after the other; see WebDriver's table for those without a character."""
        kinds = ("keyDown", "keyUp")
        steps = [{"type": kind, "value": key} for key in keys for kind in kinds]
        self._act({"type": "key", "id": "keyboard"}, steps)

    def _act(self, source: dict[str, Any], steps: list[dict[str, Any]]) -> None:
        actions = [source | {"actions": steps}]
        self._firefox.call("input.performActions", context=self._context, actions=actions)

    def screenshot(self) -> bytes:
        """Return what the window shows, as a PNG."""
        taken = self._firefox.call("browsingContext.captureScreenshot", context=self._context)
        return base64.b64decode(taken["data"])


def wait_and_connect(port: int, process: subprocess.Popen[bytes]) -> ClientConnection:
    """Connect as soon as Firefox listens."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return connect(f"ws://127.0.0.1:{port}/session", max_size=None)
        except (OSError, InvalidMessage):
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@contextmanager
def run_firefox() -> Iterator[Firefox]:
    """Run Debian's Firefox ESR until the block ends. Once it opened no tab: then again."""
    for _ in range(STARTS):
        with start_firefox() as firefox:
            try:
                firefox.open_tab().close()
            except TimeoutError:
                continue
            yield firefox
            return
    raise AssertionError(f"Firefox opened no tab in {STARTS} starts")


@contextmanager
def start_firefox() -> Iterator[Firefox]:
    """Run Firefox once, with a new profile, until the block ends."""
    port = find_free_port()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        with open(f"{profile}/user.js", "w") as file:  # noqa: PTH123
            for name, value in PREFERENCES.items():
                file.write(f"user_pref({json.dumps(name)}, {json.dumps(value)});\n")
        process = subprocess.Popen(
            [
                *("firefox-esr", "--headless", "--no-remote", "--profile", profile),
                *("--remote-debugging-port", str(port)),
            ],
            # As root it refuses another user's home, which jobs in containers of GitHub's have.
            env={**os.environ, "HOME": profile},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with wait_and_connect(port, process) as socket:
                yield Firefox(socket)
        finally:
            process.terminate()
            process.wait(30)
