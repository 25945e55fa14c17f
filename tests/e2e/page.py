"""What the tests of the page do with it: open it, choose images, wait for states."""

import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Locator, Page, Route, expect

from superres.images.pixels import Pixels

TIMEOUT = 180_000  # on a machine that does much else, images take their time


def open_page(page: Page, url: str) -> None:
    """Open the page, and wait until it has its texts and its list."""
    page.goto(url)
    page.locator("[data-ready]").wait_for(state="attached")


def row(page: Page, number: int = 0) -> Locator:
    """Return a row of the list."""
    return page.locator("#list li").nth(number)


def choose(page: Page, *files: Path) -> None:
    """Choose files in the file picker."""
    page.set_input_files("#files", files)
    # Sizes are measured one after the other; the button then tells the time.
    expect(page.locator("#start")).to_be_visible()


def pick(page: Page, name: str, value: str) -> None:
    """Choose an option in the form."""
    page.check(f'#options [name="{name}"][value="{value}"]')


def wait_for_state(page: Page, state: str, number: int = 0) -> None:
    """Wait until an image is ready, waiting, working, done or failed."""
    expect(row(page, number)).to_have_attribute("data-state", state, timeout=TIMEOUT)


def wait_for_words(page: Page, pattern: str, number: int = 0) -> None:
    """Wait until an image's row says something."""
    words = page.locator("#list .row-state").nth(number)
    expect(words).to_have_text(re.compile(pattern), timeout=TIMEOUT)


def enhance(page: Page, *files: Path) -> None:
    """Choose files and have them enhanced."""
    before = page.locator("#list li").count()
    choose(page, *files)
    page.click("#start")
    for number in range(len(files)):
        wait_for_state(page, "done", before + number)


def wait_for_comparison(page: Page) -> None:
    """Wait until the viewer shows the original and the result."""
    expect(page.locator("#stage")).to_have_attribute("data-shows", "both", timeout=TIMEOUT)


def share(page: Page) -> int:
    """Return where the divider is, in percent."""
    return int(page.locator("#stage .divider").get_attribute("aria-valuenow") or "")


def zoom(page: Page) -> str:
    """Return the zoom as the viewer tells it."""
    return page.locator("#zoom").inner_text()


def locate(page: Page, selector: str) -> tuple[float, float, float, float]:
    """Return an element's x, y, width and height in the window."""
    box = page.locator(selector).bounding_box()
    assert box is not None
    return box["x"], box["y"], box["width"], box["height"]


def place(page: Page) -> tuple[float, float, float]:
    """Return where the image is in the stage: x and y of its corner, and its scale."""
    matrix: Sequence[float] = page.evaluate(
        """(() => {
            const { a, e, f } = new DOMMatrix(
                getComputedStyle(document.querySelector("#stage .original img")).transform);
            return [e, f, a];
        })()"""
    )
    return matrix[0], matrix[1], matrix[2]


def photograph(page: Page) -> Pixels:
    """Return what the stage shows, (height, width, 3) uint8, without labels and divider."""
    page.evaluate(
        """for (const each of document.querySelectorAll("#stage :is(.label, .divider)"))
            each.style.visibility = "hidden";"""
    )
    picture = page.locator("#stage").screenshot()
    page.evaluate(
        """for (const each of document.querySelectorAll("#stage :is(.label, .divider)"))
            each.style.visibility = "";"""
    )
    return np.asarray(Image.open(BytesIO(picture)).convert("RGB"))


def patch_capabilities(page: Page, **changes: object) -> None:
    """Have the service say something else of itself, from the next request on."""

    def answer(route: Route) -> None:
        route.fulfill(json=route.fetch().json() | changes)

    page.unroute("**/api/capabilities")
    page.route("**/api/capabilities", answer)
