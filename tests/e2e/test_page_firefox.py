"""The page at / in Firefox, with mouse, finger, wheel and keyboard."""

import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from testkit.service import Service
from tests.e2e.firefox import Firefox, FirefoxTab, run_firefox

WAIT_SECONDS = 60
SIDE = 600
EDGE = 40
STAGE = """JSON.stringify((({ x, y, width, height }) => [x, y, width, height])(
    document.querySelector("#stage").getBoundingClientRect()))"""
SHARE = 'Number(document.querySelector("#stage .divider").getAttribute("aria-valuenow"))'
SCALE = """new DOMMatrix(getComputedStyle(document.querySelector("#stage img")).transform).a"""


@pytest.fixture(scope="module")
def firefox() -> Iterator[Firefox]:
    with run_firefox() as running:
        yield running


@pytest.fixture
def tab(firefox: Firefox, light_service: Service) -> Iterator[FirefoxTab]:
    tab = firefox.open_tab()
    tab.goto(light_service.url)
    wait_for(tab, "document.documentElement.dataset.ready", "true")
    yield tab
    tab.close()


def wait_for(tab: FirefoxTab, expression: str, value: Any) -> None:
    """Wait until an expression has a value."""
    deadline = time.monotonic() + WAIT_SECONDS
    while (found := tab.evaluate(expression)) != value:
        assert time.monotonic() < deadline, f"{expression} is {found!r}"
        time.sleep(0.05)


def click(tab: FirefoxTab, selector: str) -> None:
    tab.evaluate(f"document.querySelector({selector!r}).click(); null")


def state(number: int = 0) -> str:
    return f'document.querySelectorAll("#list li")[{number}]?.dataset.state'


@pytest.fixture
def pattern(tmp_path: Path) -> Path:
    noise = np.random.default_rng(8).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    path = tmp_path / "pattern.png"
    Image.fromarray(noise).save(path)
    return path


@pytest.fixture
def viewer(tab: FirefoxTab, pattern: Path) -> FirefoxTab:
    tab.set_files("#files", pattern)
    wait_for(tab, state(), "ready")
    click(tab, "#start")
    wait_for(tab, 'document.querySelector("#stage").dataset.shows', "both")
    return tab


def read_stage(tab: FirefoxTab) -> tuple[float, float, float, float]:
    x, y, width, height = (float(each) for each in tab.evaluate(STAGE).strip("[]").split(","))
    return x, y, width, height


def test_each_side_of_the_divider_has_its_pixels(viewer: FirefoxTab, pattern: Path) -> None:
    click(viewer, "#full-size")
    wait_for(viewer, SCALE, 1)
    x, y, width, height = (round(each) for each in read_stage(viewer))
    viewer.drag("mouse", (x + width / 2, y + height / 2), (x + 0.4 * width, y + height / 2))
    assert viewer.evaluate(SHARE) == 40
    place = viewer.evaluate(
        """(({ e, f }) => [e, f])(
            new DOMMatrix(getComputedStyle(document.querySelector("#stage img")).transform))"""
    )
    left, top = round(-place[0]), round(-place[1])
    shown = np.asarray(Image.open(BytesIO(viewer.screenshot())).convert("RGB"), np.int16)
    shown = shown[y + 64 : y + height - 8, x : x + width]  # below the labels
    box = (left, top + 64, left + width, top + height - 8)
    with Image.open(pattern) as original:
        size = (3 * SIDE, 3 * SIDE)
        result = np.asarray(original.resize(size, Image.Resampling.NEAREST).crop(box), np.int16)
        smooth = np.asarray(original.resize(size, Image.Resampling.BILINEAR).crop(box), np.int16)
    split = round(0.4 * width)
    assert np.abs(shown - result)[:, split + EDGE :].max() <= 1
    before = slice(0, split - EDGE)
    assert np.abs(shown - smooth)[:, before].mean() < np.abs(shown - result)[:, before].mean() / 2


def test_finger_mouse_wheel_and_keys_move_what_they_should(viewer: FirefoxTab) -> None:
    x, y, width, height = read_stage(viewer)
    middle = y + height / 3
    steps = [(x + share * width, middle) for share in (0.3, 0.5, 0.7, 0.8)]
    viewer.drag("touch", *steps)  # fitted: a drag anywhere moves the divider
    assert viewer.evaluate(SHARE) == 80
    fitted = viewer.evaluate(SCALE)
    viewer.scroll(x + 100, y + 100, -200)
    wait_for(viewer, f"{SCALE} > {fitted}", True)
    viewer.evaluate('document.querySelector("#stage").focus(); null')
    viewer.press("1")
    wait_for(viewer, SCALE, 1)
    viewer.drag("mouse", (x + 100, middle), (x + 150, middle), (x + 200, middle))
    assert viewer.evaluate(SHARE) == 80  # zoomed: it pans
    viewer.press("0")
    wait_for(viewer, SCALE, fitted)


def test_list_comes_back_after_a_reload(viewer: FirefoxTab) -> None:
    viewer.reload()
    wait_for(viewer, state(), "done")
    wait_for(viewer, 'document.querySelector("#stage").dataset.shows', "both")


def test_file_is_dropped(tab: FirefoxTab, photo: Path) -> None:
    content = list(photo.read_bytes())
    tab.evaluate(
        f"""(() => {{
            const data = new DataTransfer();
            const options = {{ bubbles: true, cancelable: true, dataTransfer: data }};
            const file = new File([new Uint8Array({content})], "a.jpg", {{ type: "image/jpeg" }});
            data.items.add(file);
            document.body.dispatchEvent(new DragEvent("drop", options));
        }})()"""
    )
    wait_for(
        tab, 'document.querySelector("#list .row-state")?.textContent.slice(0, 9)', "200 × 160"
    )
