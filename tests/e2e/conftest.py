"""Fixtures for the tests of the page at /: a quick service, a browser, and a tab."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page
from skimage import data

from testkit.pictures import encode
from testkit.service import Service, run_light_service
from tests.e2e.browser import INSECURE_HOST, run_chromium
from tests.e2e.page import TIMEOUT, open_page


@pytest.fixture(scope="module")
def light_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose results repeat each pixel 3x3."""
    folder = tmp_path_factory.mktemp("service")
    with run_light_service(folder, trusted_hosts=INSECURE_HOST) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with run_chromium(program="chromium-headless-shell") as running:
        yield running


@pytest.fixture
def faults() -> list[str]:
    """What the browser complains about."""
    return []


@pytest.fixture
def page(browser: Browser, light_service: Service, faults: list[str]) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(TIMEOUT)
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    open_page(page, light_service.url)
    yield page
    context.close()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """200x160 pixels."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(encode(Image.fromarray(data.astronaut()[:160, 150:350]), "JPEG", quality=90))
    return path
