"""The page at / when something is refused or gone: limits, room, results, storage, texts."""

import re
import zipfile
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from testkit.service import Service
from tests.e2e.page import (
    choose,
    enhance,
    open_page,
    patch_capabilities,
    pick,
    row,
    wait_for_comparison,
    wait_for_state,
    wait_for_words,
)

MANY = 60
PAUSE_SECONDS = 3600
NOON = datetime(2026, 11, 27, 12)
FORBIDDEN_STORAGE = """for (const name of ["localStorage", "sessionStorage", "indexedDB"]) {
    Object.defineProperty(globalThis, name, {
        get() { throw new DOMException("forbidden", "SecurityError"); },
    });
}"""


def refuse(status: int, code: str, retry_after: int) -> dict[str, Any]:
    problem = {"code": code, "error": "Not now."}
    return {"status": status, "json": problem, "headers": {"Retry-After": str(retry_after)}}


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Five small images, none of which other tests enhance."""
    paths = [tmp_path / f"refused{number}.png" for number in range(5)]
    for number, path in enumerate(paths):
        Image.new("RGB", (33, 21), (9, 50 * number, 77)).save(path)
    return paths


def test_limit_that_is_used_up_pauses_the_queue_until_it_allows_more(
    page: Page, images: list[Path], light_service: Service
) -> None:
    refused = []

    def answer(route: Route) -> None:
        refused.append(route)
        route.fulfill(**refuse(429, "rate_limited", PAUSE_SECONDS))

    page.clock.install(time=NOON)
    page.reload()
    page.route("**/api/enhance*", answer)
    choose(page, *images)
    pick(page, "scale", "2")
    page.click("#start")
    for number in range(len(images)):
        wait_for_words(page, r"^Limit used up; goes on at 1:0\d\sPM$", number)
    expect(page.locator("#total-text")).to_have_text("0 of 5")  # nobody can tell when
    assert len(refused) <= 3  # as many as are sent at once: the others are kept back
    page.unroute("**/api/enhance*")
    page.clock.fast_forward(1000 * (PAUSE_SECONDS + 1))
    for number in range(len(images)):
        wait_for_state(page, "done", number)


def test_queue_that_goes_on_tomorrow_says_the_day(page: Page, images: list[Path]) -> None:
    page.clock.install(time=NOON.replace(hour=23, minute=30))
    page.reload()
    page.route(
        "**/api/enhance*", lambda route: route.fulfill(**refuse(429, "rate_limited", PAUSE_SECONDS))
    )
    choose(page, images[0])
    page.click("#start")
    wait_for_words(page, r"^Limit used up; goes on at Nov 28, 2026, 12:3\d\sAM$")


def test_service_without_room_is_asked_again_and_the_row_says_so(
    page: Page, images: list[Path]
) -> None:
    waiting: list[Route] = []
    page.route("**/api/enhance*", lambda route: route.fulfill(**refuse(503, "busy", 1)), times=1)
    # The second routing comes first.
    page.route("**/api/enhance*", lambda route: waiting.append(route), times=1)
    choose(page, images[0])
    page.click("#start")
    wait_for_words(page, "^Uploading$")
    waiting[0].fallback()
    wait_for_words(page, "^The server takes no more for now; trying again$")
    wait_for_state(page, "done")


def test_results_that_are_gone_are_left_out_of_the_zip_file_and_said_to_be_gone(
    page: Page, images: list[Path]
) -> None:
    enhance(page, *images[:3])
    wait_for_comparison(page)
    gone = page.evaluate(
        """performance.getEntriesByType("resource").map(({ name }) => name)
            .find((name) => name.includes("/cache/"))"""
    )
    page.route(gone, lambda route: route.fulfill(status=404))
    page.evaluate("delete globalThis.showSaveFilePicker")
    with page.expect_download() as event:
        page.click("#save-all")
    with zipfile.ZipFile(event.value.path()) as archive:
        assert len(archive.namelist()) == 2
    expect(page.locator('#list [data-state="failed"] .row-state')).to_have_text(
        "The result is no longer stored; enhance the image again."
    )


def test_result_that_cannot_be_fetched_makes_the_page_wait_for_the_service(
    page: Page, images: list[Path], faults: list[str]
) -> None:
    enhance(page, images[0])
    wait_for_comparison(page)
    page.route("**/cache/*", lambda route: route.abort())
    page.route("**/api/capabilities", lambda route: route.abort())
    row(page).locator('[data-action="download"]').click()
    expect(page.locator("#offline")).to_be_visible()
    assert not [fault for fault in faults if "ERR_FAILED" not in fault]


def test_page_works_where_nothing_may_be_stored(
    browser: Browser, light_service: Service, images: list[Path]
) -> None:
    context = browser.new_context()
    context.add_init_script(FORBIDDEN_STORAGE)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    open_page(page, light_service.url)
    enhance(page, images[0])
    wait_for_comparison(page)
    page.click("#remember")
    expect(page.locator("#remember")).not_to_be_checked()
    page.select_option("#language", "zh")
    expect(page.locator("#save-all")).to_have_text("下载")
    assert errors == []
    context.close()


def test_list_that_is_cleared_at_once_leaves_nothing_behind(page: Page, tmp_path: Path) -> None:
    paths = []
    for number in range(MANY):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (400, 300), (number, 9, 9)).save(path)
        paths.append(path)
    page.set_input_files("#files", paths)
    expect(page.locator("#list li")).to_have_count(MANY)
    page.click("#clear")
    enhance(page, paths[0])  # after all sizes have been measured
    page.reload()
    wait_for_state(page, "done")
    expect(page.locator("#list li")).to_have_count(1)


def test_language_that_cannot_be_loaded_leaves_the_page_as_it_was(
    page: Page, faults: list[str]
) -> None:
    page.route("**/languages/zh.json", lambda route: route.abort())
    page.select_option("#language", "zh")
    expect(page.locator("#language")).to_have_value("en")
    expect(page.locator("#slogan")).to_have_text("Larger images that stay true")
    assert not [fault for fault in faults if "ERR_FAILED" not in fault]


def test_image_that_nobody_can_show_says_so(page: Page, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    choose(page, broken)
    expect(page.locator("#stage-text")).to_have_text("This image cannot be shown here")


def test_privacy_is_told_for_a_shared_store_too(page: Page) -> None:
    patch_capabilities(page, retention={"result_days": None})
    page.reload()
    expect(page.locator("#privacy")).to_contain_text("until the operator's store deletes it")
    patch_capabilities(page, retention={"result_days": 1})
    page.reload()
    expect(page.locator("#privacy")).to_contain_text("for a day after its last use")


def test_time_counts_transparency_as_a_second_image(page: Page, tmp_path: Path) -> None:
    opaque = Image.new("RGB", (100, 100), (1, 2, 3))
    clear = Image.new("RGBA", (100, 100), (1, 2, 3, 99))
    palette = opaque.quantize(4)
    files: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "opaque.png": (opaque, {}),
        "opaque.webp": (opaque, {}),
        "opaque-lossless.webp": (opaque, {"lossless": True}),
        "clear.png": (clear, {}),
        "palette.png": (palette, {"transparency": 0}),
        "clear.webp": (clear, {}),
        "clear-lossless.webp": (clear, {"lossless": True}),
    }
    for name, (image, options) in files.items():
        image.save(tmp_path / name, **options)
    patch_capabilities(page, seconds_per_pixel=0.001)
    page.reload()
    choose(page, *(tmp_path / name for name in files))
    for number, name in enumerate(files):
        seconds = 10 if name.startswith("opaque") else 20
        wait_for_words(page, rf"· ≈ {re.escape(str(seconds))}s$", number)
