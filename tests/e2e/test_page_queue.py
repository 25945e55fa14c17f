"""The list of images on the page at /: chosen, enhanced, saved, cancelled, tried again."""

import re
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pillow_heif
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from superres.web.api_keys import hash_key, make_key
from testkit.pictures import encode
from testkit.service import Service, run_light_service
from tests.e2e.browser import INSECURE_HOST
from tests.e2e.page import (
    TIMEOUT,
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

MANY = 80
TOO_MANY_PIXELS = {"code": "too_many_pixels", "error": "It has too many pixels."}


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Three small images of different colours, in different folders under one name."""
    paths = []
    for number in range(3):
        path = tmp_path / str(number) / ("Photo.png" if number == 1 else "photo.png")
        path.parent.mkdir()
        Image.new("RGB", (40, 30), (60 * number, 90, 200)).save(path)
        paths.append(path)
    return paths


def act(page: Page, action: str, number: int = 0) -> None:
    row(page, number).locator(f'[data-action="{action}"]').click()


def test_photo_goes_the_whole_way(page: Page, photo: Path, faults: list[str]) -> None:
    choose(page, photo)
    wait_for_words(page, r"^200 × 160 → 600 × 480")
    pick(page, "format", "webp")
    pick(page, "scale", "2")
    wait_for_words(page, r"^200 × 160 → 400 × 320")
    page.click("#start")
    wait_for_state(page, "done")
    wait_for_words(page, r"^400 × 320, [\d.]+ [kM]B$")
    wait_for_comparison(page)
    with page.expect_download() as event:
        act(page, "download")
    assert event.value.suggested_filename == "photo_x2.webp"
    with Image.open(event.value.path()) as result:
        assert (result.format, result.size) == ("WEBP", (400, 320))
    assert faults == []


def test_every_option_reaches_the_service(page: Page, photo: Path, light_service: Service) -> None:
    choose(page, photo)
    pick(page, "mode", "restore")
    pick(page, "scale", "width")
    page.fill("#width", "300")
    page.press("#width", "Enter")
    pick(page, "format", "jpeg")
    expect(page.locator("#format-hint")).to_be_visible()  # no transparency
    page.locator("[name=quality]").fill("70")
    wait_for_words(page, "→ 300 × 240")
    with page.expect_request("**/api/enhance?*") as event:
        page.click("#start")
    sent = httpx.URL(event.value.url).params
    assert dict(sent) == {"mode": "restore", "width": "300", "format": "jpeg", "quality": "70"}
    wait_for_state(page, "done")


def test_width_is_not_sent_before_it_is_a_number(page: Page, photo: Path) -> None:
    choose(page, photo)
    pick(page, "scale", "width")
    page.fill("#width", "400")
    page.press("#width", "Enter")
    for wrong in ("-3", "", "1.5"):
        page.fill("#width", wrong)
        page.press("#width", "Enter")
        expect(page.locator("#width")).to_have_value("400")
        wait_for_words(page, "→ 400 × 320")
    page.fill("#width", "0")
    pick(page, "scale", "4")
    wait_for_words(page, "→ 800 × 640")


def test_options_are_for_all_or_for_one(page: Page, photos: list[Path]) -> None:
    choose(page, *photos)
    page.locator(".thumb").nth(1).click()
    pick(page, "scope", "one")
    pick(page, "scale", "4")
    wait_for_words(page, "→ 160 × 120", 1)
    wait_for_words(page, "→ 120 × 90", 0)
    page.locator(".thumb").nth(0).click()
    assert page.locator("[name=scale]:checked").get_attribute("value") == "3"
    pick(page, "scope", "all")
    pick(page, "scale", "2")
    for number in range(3):
        wait_for_words(page, "→ 80 × 60", number)


def test_other_options_make_another_result_and_the_former_ones_find_the_first(
    page: Page, photo: Path, light_service: Service
) -> None:
    enhance(page, photo)
    pick(page, "format", "webp")
    wait_for_state(page, "ready")
    pick(page, "format", "png")
    wait_for_state(page, "done")  # that result is still there
    pick(page, "format", "webp")
    page.click("#start")
    wait_for_state(page, "done")
    before = light_service.log.count("POST /api/enhance")
    pick(page, "format", "png")
    page.click("#start")
    wait_for_state(page, "done")
    assert light_service.log.count("POST /api/enhance") == before


def test_all_results_are_saved_in_one_zip_file_under_different_names(
    page: Page, photos: list[Path]
) -> None:
    enhance(page, *photos)
    page.evaluate("delete globalThis.showSaveFilePicker")  # as in Firefox and Safari
    with page.expect_download() as event:
        page.click("#save-all")
    with zipfile.ZipFile(event.value.path()) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["photo_x3.png", "Photo_x3 (2).png", "photo_x3 (3).png"]
        for number, name in enumerate(archive.namelist()):
            with archive.open(name) as file, Image.open(file) as result:
                assert result.getpixel((5, 5)) == (60 * number, 90, 200)


def test_zip_file_is_streamed_to_the_disk_where_the_browser_can(
    page: Page, photos: list[Path]
) -> None:
    enhance(page, *photos)
    # Its dialog cannot be operated here; the file that it returns is of the same kind.
    page.evaluate(
        """globalThis.showSaveFilePicker = async ({ suggestedName }) =>
            (await navigator.storage.getDirectory()).getFileHandle(suggestedName, { create: true });
        null"""
    )
    page.click("#save-all")
    expect(page.locator("#save-all")).to_be_enabled()
    content = page.evaluate(
        """(async () => {
            const folder = await navigator.storage.getDirectory();
            const file = await (await folder.getFileHandle("enhanced.zip")).getFile();
            return [...new Uint8Array(await file.arrayBuffer())];
        })()"""
    )
    assert bytes(content).startswith(b"PK")
    assert bytes(content).count(b"hoto_x3") == 6  # each in its own header and in the directory


def test_failed_upload_says_why_and_is_tried_again(page: Page, tmp_path: Path, photo: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    choose(page, broken, photo)
    page.click("#start")
    wait_for_state(page, "failed")
    wait_for_words(page, "The file is not an image in a supported format")
    wait_for_state(page, "done", 1)
    act(page, "retry")
    wait_for_state(page, "failed")
    expect(page.locator("#retry")).to_have_text("Try again")
    act(page, "remove")
    expect(page.locator("#retry")).to_be_hidden()
    expect(page.locator("#list li")).to_have_count(1)


def test_failed_ones_are_tried_again_together(page: Page, photos: list[Path]) -> None:
    page.route("**/api/enhance*", lambda route: route.fulfill(status=422, json=TOO_MANY_PIXELS))
    choose(page, *photos)
    pick(page, "scale", "2")
    page.click("#start")
    for number in range(3):
        wait_for_words(page, "It has too many pixels", number)
    expect(page.locator("#retry")).to_have_text("Try 3 again")
    page.unroute("**/api/enhance*")
    page.click("#retry")
    for number in range(3):
        wait_for_state(page, "done", number)


def test_limit_is_named_before_anything_is_sent(
    browser: Browser, photo: Path, tmp_path: Path
) -> None:
    with run_light_service(tmp_path / "service", max_input_pixels=20_000) as service:
        context = browser.new_context()
        page = context.new_page()
        open_page(page, service.url)
        page.set_input_files("#files", photo)
        wait_for_words(page, r"^0\.03 megapixels; at most 0\.02 megapixels are accepted\.$")
        wait_for_state(page, "failed")
        expect(page.locator("#start")).to_be_hidden()
        small = tmp_path / "small.png"
        Image.new("RGB", (40, 30)).save(small)
        enhance(page, small)
        assert service.log.count("POST /api/enhance") == 1
        context.close()


def test_result_that_exists_is_not_uploaded_again(
    page: Page, photo: Path, light_service: Service
) -> None:
    enhance(page, photo)
    page.click("#clear")
    before = light_service.log.count("POST /api/enhance")
    enhance(page, photo)
    assert light_service.log.count("POST /api/enhance") == before


def test_result_that_was_evicted_says_so(page: Page, photo: Path, light_service: Service) -> None:
    choose(page, photo)
    pick(page, "format", "avif")
    page.click("#start")
    wait_for_comparison(page)
    for path in (light_service.folder / "cache").rglob("*.avif"):
        path.unlink()
    page.context.clear_cookies()
    page.route(
        "**/cache/*", lambda route: route.fulfill(status=404)
    )  # not from the browser's cache
    page.reload()
    wait_for_words(page, "no longer stored")
    page.unroute("**/cache/*")
    act(page, "retry")
    wait_for_comparison(page)


def test_heic_is_compared_with_what_the_service_makes_of_it(
    page: Page, photo: Path, tmp_path: Path
) -> None:
    heic, other = tmp_path / "IMG_0042.HEIC", tmp_path / "scan.tif"
    pillow_heif.from_pillow(Image.open(photo)).save(heic, quality=90)
    Image.open(photo).save(other)
    choose(page, heic, other)
    expect(row(page, 1).locator("canvas")).to_be_visible()  # a thumbnail, though it was not viewed
    page.click("#start")
    wait_for_comparison(page)
    sizes = page.evaluate(
        """[...document.querySelectorAll("#stage .pane img")]
            .map((image) => [image.naturalWidth, image.naturalHeight])"""
    )
    assert sizes == [[200, 160], [600, 480]]
    expect(row(page).locator("canvas")).to_be_visible()  # its thumbnail
    with page.expect_download() as event:
        act(page, "download")
    assert event.value.suggested_filename == "IMG_0042_x3.png"


def drop(page: Page, script: str) -> None:
    """Drop what a script puts into the DataTransfer `data`."""
    page.evaluate(
        f"""(() => {{
            const data = new DataTransfer();
            {script}
            for (const type of ["dragover", "drop"]) {{
                const options = {{ bubbles: true, cancelable: true, dataTransfer: data }};
                document.body.dispatchEvent(new DragEvent(type, options));
            }}
        }})()"""
    )


def test_files_are_dropped_and_pasted(page: Page, photo: Path) -> None:
    content = list(photo.read_bytes())
    file = f'new File([new Uint8Array({content})], "dropped.jpg", {{ type: "image/jpeg" }})'
    drop(page, f"data.items.add({file});")
    wait_for_words(page, "^200 × 160")
    expect(page.locator("#drop-cover")).to_be_hidden()
    page.evaluate(
        f"""(() => {{
            const data = new DataTransfer();
            data.items.add({file});
            document.dispatchEvent(new ClipboardEvent("paste", {{ clipboardData: data }}));
        }})()"""
    )
    wait_for_words(page, "^200 × 160", 1)


def drop_folder(page: Page, folder: Path) -> None:
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(folder)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 300, "data": data})


def test_folder_that_is_dropped_gives_the_images_in_it(page: Page, tmp_path: Path) -> None:
    folder = tmp_path / "holiday"
    (folder / "beach").mkdir(parents=True)
    for path in ("one.png", "beach/two.png"):
        Image.new("RGB", (30, 20), (1, 2, 3)).save(folder / path)
    (folder / "notes.txt").write_text("no image")
    (folder / "._one.png").write_bytes(b"what macOS puts beside one.png")
    (tmp_path / "empty").mkdir()
    drop_folder(page, tmp_path / "empty")
    expect(page.locator("#nothing")).to_have_text("There is no image in that folder")
    drop_folder(page, folder)
    expect(page.locator("#nothing")).to_be_hidden()
    expect(page.locator("#list li")).to_have_count(2)
    expect(page.locator(".row-name").filter(has_text=re.compile("one|two"))).to_have_count(2)


def test_many_files_are_listed_and_enhanced(page: Page, tmp_path: Path) -> None:
    paths = []
    for number in range(MANY):
        path = tmp_path / f"{number:03}.png"
        Image.new("RGB", (16, 12), (number, 255 - number, 9)).save(path)
        paths.append(path)
    choose(page, *paths)
    expect(page.locator("#start")).to_have_text(re.compile(f"^Enhance {MANY} images"))
    page.click("#start")
    expect(page.locator("#total-text")).to_have_text(re.compile(rf"^\d+ of {MANY}"))
    expect(page).to_have_title(re.compile(r"^\d+% · "))
    done = page.locator('#list [data-state="done"]')
    expect(done).to_have_count(MANY, timeout=TIMEOUT)
    expect(page.locator("#announcement")).to_have_text(f"{MANY} images enhanced")
    expect(page).to_have_title("Super-resolution")
    # Only the rows that were seen have thumbnails.
    assert 0 < page.locator("#list canvas").count() < MANY / 4


def test_time_is_a_bound_while_others_wait(
    page: Page, light_service: Service, photos: list[Path]
) -> None:
    patch_capabilities(page, seconds_per_pixel=0.005, queued_pixels=0)
    open_page(page, light_service.url)
    choose(page, photos[0])
    expect(page.locator("#start")).to_have_text("Enhance 1 image · about 6 sec")
    patch_capabilities(page, seconds_per_pixel=0.005, queued_pixels=6000)
    open_page(page, light_service.url)
    expect(page.locator("#start")).to_have_text("Enhance 1 image · up to 36 sec")


def test_page_that_is_no_secure_context_uploads_without_hashing(
    browser: Browser, light_service: Service, tmp_path: Path
) -> None:
    path = tmp_path / "insecure.png"
    Image.new("RGB", (31, 17), (7, 8, 9)).save(path)
    context = browser.new_context()
    page = context.new_page()
    open_page(page, light_service.url.replace("127.0.0.1", INSECURE_HOST))
    assert page.evaluate("isSecureContext") is False
    asked = light_service.log.count("GET /api/result")
    enhance(page, path)
    assert light_service.log.count("GET /api/result") == asked
    context.close()


@pytest.fixture
def key() -> str:
    return make_key()


@pytest.fixture
def guarded(tmp_path: Path, key: str) -> Iterator[Service]:
    """A service that requires a key."""
    keys = tmp_path / "keys"
    keys.write_text(f"anna:{hash_key(key)}\n")
    with run_light_service(tmp_path / "service", api_keys_file=keys) as service:
        yield service


def test_key_is_asked_for_once_and_then_sent(
    browser: Browser, photo: Path, guarded: Service, key: str
) -> None:
    context = browser.new_context()
    page = context.new_page()
    open_page(page, guarded.url)
    sent = {}
    page.on("request", lambda request: sent.update({request.url: request.headers}))
    choose(page, photo)
    expect(page.locator("#key-text")).to_have_text("This server requires an API key")
    page.click("#start")
    wait_for_words(page, "^Needs an API key")
    expect(page.locator("#key")).to_be_focused()
    page.fill("#key", "sr_wrong")
    page.press("#key", "Enter")
    wait_for_words(page, "^The server does not know the API key")
    expect(page.locator("#key-text")).to_have_text("The server does not know this API key")
    page.fill("#key", key)
    page.press("#key", "Enter")
    wait_for_state(page, "done")
    wait_for_comparison(page)
    expect(page.locator("#key-form")).to_be_hidden()
    results = [headers for url, headers in sent.items() if "/cache/" in url]
    assert results
    assert not [headers for headers in results if "authorization" in headers]
    page.click("#show-code")
    expect(page.locator("#curl")).to_contain_text('-H "Authorization: Bearer YOUR_KEY"')
    expect(page.locator("#fetch")).to_contain_text('"apiKey": "YOUR_KEY"')
    expect(page.locator("#python")).to_contain_text('headers={"Authorization": "Bearer YOUR_KEY"}')
    page.reload()
    page.click("#clear")
    enhance(page, photo)  # the tab still has the key
    context.close()


def test_snippets_have_the_chosen_options(page: Page, photo: Path) -> None:
    choose(page, photo)
    pick(page, "format", "webp")
    pick(page, "scale", "2")
    page.click("#show-code")
    expect(page.locator("#curl")).to_contain_text("-F 'image=@\"photo.jpg\"'")
    expect(page.locator("#curl")).to_contain_text("-F format=webp -F scale=2 -F quality=90")
    expect(page.locator("#fetch")).to_contain_text('"format": "webp"')
    expect(page.locator("#python")).to_contain_text('"scale": "2"')
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator('[data-copy="curl"]').click()
    expect(page.locator('[data-copy="curl"]')).to_have_text("Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.locator("#curl").inner_text()
    page.keyboard.press("Escape")
    expect(page.locator("#code-dialog")).to_be_hidden()


def test_curl_snippet_runs_with_a_name_that_curl_takes_for_more(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "a, b; c.png"
    Image.new("RGB", (30, 20), (5, 6, 7)).save(path)
    choose(page, path)
    page.click("#show-code")
    subprocess.run(page.locator("#curl").inner_text(), shell=True, check=True, cwd=tmp_path)
    with Image.open(tmp_path / "result.png") as result:
        assert result.size == (90, 60)


def test_python_snippet_runs(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (20, 30, 3), np.uint8)
    (tmp_path / "noise.png").write_bytes(encode(Image.fromarray(noise), "PNG"))
    choose(page, tmp_path / "noise.png")
    pick(page, "format", "jpeg")
    page.click("#show-code")
    monkeypatch.chdir(tmp_path)
    exec(page.locator("#python").inner_text(), {})
    with Image.open("result.jpg") as result:
        assert (result.format, result.size) == ("JPEG", (90, 60))


def test_notification_tells_that_all_is_done_when_the_tab_is_not_seen(
    browser: Browser, light_service: Service, photo: Path
) -> None:
    context = browser.new_context(permissions=["notifications"])
    page = context.new_page()
    open_page(page, light_service.url)
    choose(page, photo)
    page.check("#notify")
    page.evaluate(
        """globalThis.told = [];
        globalThis.Notification = class {
            constructor(title, { body }) { told.push([title, body]); }
        };
        Object.defineProperty(document, "hidden", { value: true });"""
    )
    page.click("#start")
    wait_for_state(page, "done")
    expect(page.locator("#announcement")).to_have_text("1 image enhanced")
    assert page.evaluate("told") == [["Super-resolution", "1 image enhanced"]]
    context.close()
