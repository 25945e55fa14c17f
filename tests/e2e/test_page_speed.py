"""The viewer of the page at / with a large result, on a slow processor."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page

from tests.e2e.page import enhance, locate, place, share, wait_for_comparison

LONGEST_TASK_MS = 100
THROTTLING = 4
STEPS = 30


@pytest.fixture
def poster(tmp_path: Path) -> Path:
    """2000x2000 pixels, whose result has 36 megapixels."""
    x, y = np.meshgrid(np.arange(2000), np.arange(2000))
    samples = np.stack([x // 8, y // 8, (x * y) % 256], axis=2).astype(np.uint8)
    path = tmp_path / "poster.png"
    Image.fromarray(samples).save(path)
    return path


def read_tasks_ms(trace: bytes) -> list[float]:
    """Return how much processor time each task of the page's main thread took, in milliseconds.

    Time on the clock would count other programs, too.
    """
    events: list[dict[str, Any]] = json.loads(trace)["traceEvents"]
    threads = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    return [
        event["tdur"] / 1000
        for event in events
        if event["name"].endswith("RunTask")
        and (event["pid"], event["tid"]) in threads
        and "tdur" in event
    ]


def test_no_task_is_long_while_a_large_result_is_dragged_and_zoomed(
    page: Page, browser: Browser, poster: Path
) -> None:
    enhance(page, poster)
    wait_for_comparison(page)
    session = page.context.new_cdp_session(page)
    session.send("Emulation.setCPUThrottlingRate", {"rate": THROTTLING})
    x, y, width, height = locate(page, "#stage")
    browser.start_tracing(page=page, categories=["toplevel", "devtools.timeline"])
    page.mouse.move(x + width / 2, y + height / 2)
    page.mouse.down()
    page.mouse.move(x + width / 4, y + height / 2, steps=STEPS)  # the divider
    page.mouse.up()
    page.mouse.move(x + width * 0.6, y + height / 2)
    for _ in range(STEPS):
        page.mouse.wheel(0, -60)
    page.mouse.down()
    page.mouse.move(x + width * 0.9, y + height * 0.9, steps=STEPS)  # the image
    page.mouse.up()
    page.keyboard.press("l")
    for _ in range(STEPS):
        page.mouse.wheel(0, 60)
    tasks = read_tasks_ms(browser.stop_tracing())
    assert share(page) == 25
    assert place(page)[2] < 1
    assert len(tasks) > 4 * STEPS
    assert max(tasks) < LONGEST_TASK_MS
    print(f"{len(tasks)} tasks, the longest {max(tasks):.0f} ms")
