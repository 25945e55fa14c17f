"""What the page at / keeps when it is reloaded, left, or closed, and when the service goes away."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from testkit import loopback
from testkit.pictures import encode
from testkit.service import Service, run_light_service, run_service, wait_until_ready
from tests.e2e.page import (
    TIMEOUT,
    choose,
    enhance,
    open_page,
    pick,
    row,
    wait_for_comparison,
    wait_for_state,
    wait_for_words,
)

RUNNING = r"^\d+%, .* left$"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with the real model on one lane, which takes its time."""
    with run_service(tmp_path_factory.mktemp("real"), lanes=1) as running:
        yield running


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context()
    context.set_default_timeout(TIMEOUT)
    yield context
    context.close()


@pytest.fixture
def tab(context: BrowserContext, service: Service) -> Page:
    page = context.new_page()
    open_page(page, service.url)
    return page


@pytest.fixture
def large(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """An image that takes some seconds; another one in each test."""
    seed = list(request.node.name.encode())
    noise = np.random.default_rng(seed).integers(0, 256, (90, 90, 3), np.uint8)
    path = tmp_path / "large.jpg"
    path.write_bytes(encode(Image.fromarray(noise).resize((600, 600)), "JPEG", quality=60))
    return path


def test_job_goes_on_when_the_page_is_reloaded(tab: Page, large: Path, service: Service) -> None:
    choose(tab, large)
    tab.click("#start")
    wait_for_words(tab, RUNNING)
    uploads = service.log.count("POST /api/enhance")
    tab.reload()
    wait_for_words(tab, RUNNING)
    wait_for_state(tab, "done")
    assert service.log.count("POST /api/enhance") == uploads
    wait_for_comparison(tab)


def test_everything_comes_back_in_the_same_tab(tab: Page, photo: Path, large: Path) -> None:
    enhance(tab, photo)
    choose(tab, large)
    pick(tab, "format", "webp")
    wait_for_state(tab, "ready", 0)  # another format was chosen for all
    for _ in range(100):
        if kept_states(tab) == ["ready", "ready"]:
            break
        tab.wait_for_timeout(100)
    tab.goto("about:blank")
    tab.go_back()
    tab.reload()
    wait_for_state(tab, "ready", 0)
    pick(tab, "format", "png")
    wait_for_state(tab, "done", 0)
    wait_for_words(tab, "^600 × 480, ", 0)
    wait_for_words(tab, "^600 × 600 → ", 1)
    wait_for_comparison(tab)
    with tab.expect_download() as event:
        row(tab).locator('[data-action="download"]').click()
    assert event.value.suggested_filename == "photo_x3.png"


def test_another_tab_sees_nothing_of_it(
    tab: Page, context: BrowserContext, photo: Path, service: Service
) -> None:
    enhance(tab, photo)
    other = context.new_page()
    open_page(other, service.url)
    expect(other.locator("#welcome")).to_be_visible()


def test_remembered_list_comes_back_after_the_tab_is_closed_until_it_is_forgotten(
    tab: Page, context: BrowserContext, photo: Path, service: Service
) -> None:
    enhance(tab, photo)
    tab.check("#remember")
    tab.close()
    other = context.new_page()
    open_page(other, service.url)
    wait_for_state(other, "done")
    wait_for_comparison(other)
    expect(other.locator("#remember")).to_be_checked()
    other.click("#forget")
    expect(other.locator("#welcome")).to_be_visible()
    other.close()
    last = context.new_page()
    open_page(last, service.url)
    expect(last.locator("#welcome")).to_be_visible()
    assert kept(last) == ["seen", "seen"]  # signs of life, of this tab and of the former


def test_files_are_kept_up_to_a_limit_that_removed_ones_do_not_count_for(tab: Page) -> None:
    kept_files = tab.evaluate(
        """(async () => {
            const { Store } = await import(
                document.querySelector("link[href$='/store.js']").href);
            const keep = (store, ...ids) =>
                Promise.all(ids.map((id) => store.putFile({ id, file: { size: 240e6 } })));
            const store = new Store();
            await keep(store, "a", "b", "too much");
            await store.remove("a");
            await keep(store, "c");
            const reloaded = new Store();
            for (const id of ["b", "c", "too much", "d"]) await store.put(id, { order: id });
            const first = await reloaded.load();
            await keep(reloaded, "d");
            return [first, await new Store().load()].map((records) =>
                records.filter(({ file }) => file).map(({ id }) => id));
        })()"""
    )
    assert kept_files == [["b", "c"], ["b", "c"]]


READ_DATABASE = """new Promise((resolve) => {
    const opened = indexedDB.open("super-resolution");
    opened.onsuccess = () => {
        const store = opened.result.transaction("kept").objectStore("kept");
        store.METHOD().onsuccess = ({ target }) => resolve(target.result);
    };
})"""


def kept(page: Page) -> list[str]:
    """Return the kinds of what is in the browser's database."""
    return sorted(key[0] for key in page.evaluate(READ_DATABASE.replace("METHOD", "getAllKeys")))


def kept_states(page: Page) -> list[str]:
    """Return the states of the images in the browser's database."""
    return list(
        page.evaluate(
            f"""{READ_DATABASE.replace("METHOD", "getAll")}
                .then((all) => all.map(({{ state }}) => state).filter(Boolean))"""
        )
    )


def test_files_of_a_tab_that_is_gone_are_deleted(
    tab: Page, context: BrowserContext, photo: Path, service: Service
) -> None:
    enhance(tab, photo)
    expect(tab.locator("#stage")).to_have_attribute("data-shows", "both")
    assert kept(tab) == ["file", "image", "seen"]
    tab.close()
    other = context.new_page()
    other.clock.install()
    other.clock.fast_forward(2 * 3600 * 1000)
    open_page(other, service.url)
    assert kept(other) == ["seen"]


def test_page_waits_for_a_service_that_restarts_and_goes_on(
    context: BrowserContext, large: Path, photo: Path, tmp_path: Path
) -> None:
    with run_service(tmp_path / "service", lanes=1) as service:
        page = context.new_page()
        open_page(page, service.url)
        choose(page, large)
        page.click("#start")
        wait_for_words(page, RUNNING)
        service.kill()
        expect(page.locator("#offline")).to_be_visible(timeout=TIMEOUT)
        wait_for_words(page, "^Waiting for the server$")
        page.set_input_files("#files", photo)
        page.click("#start")
        wait_for_words(page, "^Waiting for the server$", 1)
        service.restart()
        wait_until_ready(service)
        expect(page.locator("#offline")).to_be_hidden(timeout=TIMEOUT)
        for number in range(2):
            wait_for_state(page, "done", number)


def test_page_says_that_the_service_is_away_and_that_it_is_back(
    context: BrowserContext, photo: Path, tmp_path: Path
) -> None:
    with run_light_service(tmp_path / "service") as service:
        page = context.new_page()
        open_page(page, service.url)
        expect(page.locator("#accepted")).to_contain_text("PNG")
        service.kill()
        # Not even the working screen's modules have been loaded.
        page.set_input_files("#files", photo)
        expect(page.locator("#offline")).to_be_visible(timeout=TIMEOUT)
        service.restart()
        wait_until_ready(service)
        wait_for_words(page, "^200 × 160 → 600 × 480")
        expect(page.locator("#offline")).to_be_hidden()
        page.click("#start")
        wait_for_state(page, "done")


def test_job_that_the_service_has_lost_is_sent_again(tab: Page, large: Path) -> None:
    choose(tab, large)
    tab.click("#start")
    wait_for_words(tab, RUNNING)
    lost = []

    def lose(route: Route) -> None:
        lost.append(route)
        problem = {"code": "job_not_found", "error": "There is no such job."}
        route.fulfill(status=404, json=problem)

    tab.route("**/api/jobs/*", lose, times=1)
    tab.reload()
    wait_for_state(tab, "done")
    assert len(lost) == 1


def test_cancelled_image_stops_at_the_service(tab: Page, large: Path, service: Service) -> None:
    choose(tab, large)
    tab.click("#start")
    wait_for_words(tab, RUNNING)
    button = row(tab).locator('[data-action="cancel"]')
    button.focus()
    tab.keyboard.press("Enter")
    wait_for_state(tab, "ready")
    # The focus stays in the row whose button has gone.
    assert tab.evaluate("document.activeElement.dataset.action") == "remove"
    for _ in range(100):
        if not loopback.get(f"{service.url}/api/stats").json()["queue_pixels"]:
            break
        tab.wait_for_timeout(100)
    else:
        pytest.fail("the job was not cancelled")
    assert "DELETE /api/jobs/" in service.log


def test_choices_are_kept_in_the_tab(tab: Page, photo: Path) -> None:
    choose(tab, photo)
    pick(tab, "format", "webp")
    tab.reload()
    expect(tab.locator('[name="format"][value="webp"]')).to_be_checked()
    kept_options = json.loads(tab.evaluate("sessionStorage.getItem('options')"))
    assert kept_options["format"] == "webp"
