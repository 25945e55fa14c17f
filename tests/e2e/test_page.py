"""The page at /, in a real browser, with the real model."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pillow_heif
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from skimage import data

from superres.web.api_keys import hash_key, make_key
from superres.web.web_pages import PAGE_DIR
from testkit.pictures import encode
from testkit.service import Service, run_service
from tests.e2e.browser import INSECURE_HOST, run_chromium

TIMEOUT = 60_000
TOO_MANY_PIXELS = {"code": "too_many_pixels", "error": "It has too many pixels."}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with run_service(tmp_path_factory.mktemp("service"), trusted_hosts=INSECURE_HOST) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with run_chromium() as running:
        yield running


@pytest.fixture
def faults() -> list[str]:
    """What the browser complains about."""
    return []


@pytest.fixture
def page(browser: Browser, service: Service, faults: list[str]) -> Iterator[Page]:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(TIMEOUT)
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(service.url)
    yield page
    context.close()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encode(Image.fromarray(data.astronaut()[:160, 150:350]), "JPEG", quality=90))
    return path


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """An image that takes some ten seconds."""
    noise = np.random.default_rng(1).integers(0, 256, (90, 90, 3), np.uint8)
    path = tmp_path / "large.jpg"
    path.write_bytes(encode(Image.fromarray(noise).resize((1300, 1300)), "JPEG", quality=60))
    return path


def wait_for_state(page: Page, text: str, number: int = 0) -> None:
    expect(page.locator("#queue .state").nth(number)).to_have_text(
        re.compile(text), timeout=TIMEOUT
    )


def test_photo_goes_the_whole_way(page: Page, photo: Path, faults: list[str]) -> None:
    page.set_input_files("#files", photo)
    wait_for_state(page, "done")
    expect(page.locator("#viewer-name")).to_have_text("photo.jpg")
    page.wait_for_function("document.getElementById('after').naturalWidth > 0")
    sizes = page.evaluate(
        """["before", "after"].map((id) => document.getElementById(id))
            .map((image) => [image.naturalWidth, image.naturalHeight])"""
    )
    assert sizes == [[200, 160], [600, 480]]
    page.select_option("#zoom", "2")
    assert page.evaluate("document.getElementById('sheet').offsetWidth") == 1200
    page.locator("#stage").scroll_into_view_if_needed()
    box = page.locator("#stage").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 140, box["y"] + 170)
    page.mouse.up()
    page.mouse.move(box["x"] + 10, box["y"] + 10)  # after the release, moves have no effect
    moved = "[document.getElementById('stage')].map((it) => [it.scrollLeft, it.scrollTop])[0]"
    assert page.evaluate(moved) == [60, 30]
    page.select_option("#format", "webp")
    page.select_option("#scale", "2")
    expect(page.locator("#curl")).to_contain_text("-F format=webp -F scale=2")
    expect(page.locator("#fetch")).to_contain_text("/api/enhance?format=webp&scale=2")
    with page.expect_download() as event:
        page.click("#download")
    assert event.value.suggested_filename == "photo_x2.webp"
    with Image.open(event.value.path()) as result:
        assert (result.format, result.size) == ("WEBP", (400, 320))
    assert faults == []


def test_mode_changes_what_is_shown_and_downloaded(
    page: Page, photo: Path, faults: list[str]
) -> None:
    page.select_option("#mode", "restore")
    page.set_input_files("#files", photo)
    wait_for_state(page, "done")
    expect(page.locator("#curl")).to_contain_text("-F mode=restore")
    after = page.locator("#after")
    expect(after).to_have_attribute("src", re.compile("blob:"))
    restored = after.get_attribute("src")
    assert restored is not None
    page.select_option("#mode", "faithful")
    expect(after).not_to_have_attribute("src", restored, timeout=TIMEOUT)
    expect(page.locator("#curl")).to_contain_text("-F mode=faithful")
    page.select_option("#mode", "restore")
    expect(after).to_have_attribute("src", restored)  # it is still there
    with page.expect_download() as event:
        page.click("#download")
    assert event.value.suggested_filename == "photo_restored_x3.png"
    assert faults == []


def test_result_is_shown_alone_if_the_browser_cannot_show_the_original(
    page: Page, photo: Path, tmp_path: Path
) -> None:
    heic = tmp_path / "IMG_0042.HEIC"
    pillow_heif.from_pillow(Image.open(photo)).save(heic, quality=90)
    page.set_input_files("#files", heic)
    wait_for_state(page, "done")
    expect(page.locator("#viewer-name")).to_have_text("IMG_0042.HEIC")
    page.wait_for_function("document.getElementById('after').naturalWidth == 600")
    expect(page.locator("#before")).to_be_hidden()
    expect(page.locator("#compare")).to_be_hidden()
    expect(page.locator("#after")).to_have_css("clip-path", "none")
    with page.expect_download() as event:
        page.click("#download")
    assert event.value.suggested_filename == "IMG_0042_x3.png"
    page.set_input_files("#files", photo)
    wait_for_state(page, "done", number=1)
    page.locator("#queue button").filter(has_text="Show").nth(1).click()
    expect(page.locator("#viewer-name")).to_have_text("photo.jpg")
    expect(page.locator("#compare")).to_be_visible()
    expect(page.locator("#before")).to_be_visible()


def test_result_that_exists_is_not_uploaded_again(
    page: Page, photo: Path, service: Service
) -> None:
    for _ in range(2):
        page.reload()
        before = service.log.count("POST /api/enhance")
        page.set_input_files("#files", photo)
        wait_for_state(page, "done")
    assert service.log.count("POST /api/enhance") == before


def test_keyboard_alone_is_enough(page: Page, photo: Path) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"
    page.set_input_files("#files", photo)
    wait_for_state(page, "done")
    page.locator("#viewer").wait_for()
    reached = []
    for _ in range(13):
        page.keyboard.press("Tab")
        focused = page.evaluate("[document.activeElement.id, document.activeElement.textContent]")
        reached.append(focused[0] or focused[1])
        if focused[0] == "compare":
            page.keyboard.press("ArrowRight")
    assert reached[:3] == ["mode", "Show", "Remove"]
    assert {"stage", "compare", "zoom", "format", "scale", "download"} <= set(reached)
    assert page.evaluate("document.getElementById('compare').value") == "51"


def test_failed_upload_says_why_in_words(page: Page, tmp_path: Path, photo: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    page.set_input_files("#files", [broken, photo])
    wait_for_state(page, "The file is not an image in a supported format")
    wait_for_state(page, "done", 1)
    assert page.locator("#queue button").first.inner_text() == "Remove"


def test_failed_download_says_so_and_leaves_the_picture_as_it_was(page: Page, photo: Path) -> None:
    page.set_input_files("#files", photo)
    wait_for_state(page, "done")
    page.route("**/api/enhance*", lambda route: route.fulfill(status=422, json=TOO_MANY_PIXELS))
    page.route("**/api/result*", lambda route: route.fulfill(json={"exists": False}))
    page.select_option("#scale", "4")
    page.click("#download")
    expect(page.locator("#announcement")).to_contain_text("too many pixels")
    expect(page.locator("#queue progress")).to_be_hidden()
    wait_for_state(page, "done")
    expect(page.locator("#download")).to_be_enabled()


def test_keyboard_focus_stays_with_the_picture_that_is_cancelled(page: Page, large: Path) -> None:
    page.set_input_files("#files", large)
    page.locator("text=Cancel").focus()
    wait_for_state(page, r"\d+ %, \d+ s left")
    page.keyboard.press("Enter")
    wait_for_state(page, "cancelled")
    assert page.evaluate("document.activeElement.textContent") == "Remove"


def test_cancelled_picture_stops_at_the_server(page: Page, large: Path, service: Service) -> None:
    page.set_input_files("#files", large)
    wait_for_state(page, r"\d+ %, \d+ s left")
    page.click("text=Cancel")
    wait_for_state(page, "cancelled")
    expect(page.locator("#queue progress")).to_be_hidden()
    for _ in range(100):
        if not httpx.get(f"{service.url}/api/stats").json()["queue_pixels"]:
            break
        page.wait_for_timeout(100)
    else:
        pytest.fail("the job was not cancelled")


def test_page_that_is_no_secure_context_uploads_without_hashing(
    browser: Browser, service: Service, photo: Path
) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(service.url.replace("127.0.0.1", INSECURE_HOST))
    assert page.evaluate("isSecureContext") is False
    asked = service.log.count("GET /api/result")
    page.set_input_files("#files", photo)
    wait_for_state(page, "done")
    assert service.log.count("GET /api/result") == asked
    context.close()


def test_browser_in_chinese_sees_chinese(browser: Browser, service: Service) -> None:
    context = browser.new_context(locale="zh-CN")
    page = context.new_page()
    page.goto(service.url)
    expect(page.locator("label[for=files]")).to_have_text("选择图片")
    assert page.evaluate("document.documentElement.lang") == "zh"
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility_checker_finds_nothing(
    browser: Browser, service: Service, photo: Path, scheme: str
) -> None:
    # The checker is a separate script, which the page's policy would block.
    context = browser.new_context(color_scheme=scheme, bypass_csp=True)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(service.url)
    for _ in range(2):
        results = Axe().run(page)
        assert results.violations_count == 0, results.generate_report()
        page.set_input_files("#files", photo)
        wait_for_state(page, "done")
    context.close()


def test_page_is_small(page: Page) -> None:
    page.wait_for_load_state("networkidle")
    sizes = page.evaluate(
        """["resource", "navigation"].flatMap((type) => performance.getEntriesByType(type))
            .map((entry) => [new URL(entry.name).pathname, entry.decodedBodySize])"""
    )
    assert len(sizes) >= 5
    assert sum(size for _, size in sizes) < 60_000


# --- the page's headers


def test_page_is_revalidated_and_its_files_are_kept(service: Service) -> None:
    page = httpx.get(service.url)
    assert page.headers["Cache-Control"] == "no-cache"
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
    assert page.headers["Referrer-Policy"] == "strict-origin-when-cross-origin"
    tag = {"If-None-Match": page.headers["ETag"]}
    assert httpx.get(service.url, headers=tag).status_code == 304
    paths = re.findall(r'(?:href|src)="(static/[^"]+)"', page.text)
    assert len(paths) == 3
    for path in paths:
        file = httpx.get(f"{service.url}/{path}")
        assert (file.status_code, file.headers["Cache-Control"]) == (200, "public, max-age=604800")
        assert httpx.get(f"{service.url}/{path.replace('static/', 'static/0')}").status_code == 404


def test_client_module_is_revalidated_and_open_to_all_origins(service: Service) -> None:
    for name in ("client.js", "client.d.ts"):
        headers = {"Origin": "https://any.example"}
        module = httpx.get(f"{service.url}/static/{name}", headers=headers)
        assert module.headers["Cache-Control"] == "no-cache"
        assert module.headers["Access-Control-Allow-Origin"] == "*"
        assert module.content == (PAGE_DIR / name).read_bytes()
        tag = {"If-None-Match": module.headers["ETag"]}
        assert httpx.get(f"{service.url}/static/{name}", headers=tag).status_code == 304
    assert httpx.get(f"{service.url}/static/page.js").status_code == 404


def test_key_is_asked_for_once_and_then_sent(browser: Browser, photo: Path, tmp_path: Path) -> None:
    key = make_key()
    keys = tmp_path / "keys"
    keys.write_text(f"anna:{hash_key(key)}\n")
    with run_service(tmp_path / "service", api_keys_file=keys) as service:
        context = browser.new_context()
        page = context.new_page()
        page.goto(service.url)
        sent = {}
        page.on("request", lambda request: sent.update({request.url: request.headers}))
        page.set_input_files("#files", photo)
        wait_for_state(page, "The server requires an API key")
        expect(page.locator("#key")).to_be_focused()
        assert not Axe().run(page).response["violations"]
        page.fill("#key", "sr_wrong")
        page.press("#key", "Enter")
        wait_for_state(page, "The server requires an API key")
        page.fill("#key", key)
        page.press("#key", "Enter")
        wait_for_state(page, "done")
        expect(page.locator("#key-form")).to_be_hidden()
        results = [headers for url, headers in sent.items() if "/cache/" in url]
        assert not [headers for headers in results if "authorization" in headers]
        page.reload()
        page.set_input_files("#files", photo)
        wait_for_state(page, "done")
        results = [headers for url, headers in sent.items() if "/cache/" in url]
        assert len(results) == 1
        assert "authorization" not in results[0]
        context.close()


def test_contract_is_shown_without_outside_hosts(
    page: Page, service: Service, faults: list[str]
) -> None:
    hosts = set()
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    page.goto(f"{service.url}/docs")
    expect(page.locator(".opblock-summary-path").first).to_have_text("/api/enhance")
    assert page.locator(".opblock").count() == 9
    page.locator("#operations-pictures-enhance .opblock-summary").click()
    expect(page.locator("#operations-pictures-enhance .responses-wrapper")).to_be_visible()
    assert hosts == {service.url.removeprefix("http://")}
    assert faults == []
