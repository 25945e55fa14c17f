"""The page at /: its first screen, its files and their headers."""

import gzip
import json
import re

import httpx
from playwright.sync_api import Page, expect

from superres.web.web_pages import PAGE_DIR
from testkit import loopback
from testkit.service import Service
from tests.e2e.page import locate, share, wait_for_comparison, wait_for_words

MAX_BYTES = 120_000


def test_first_screen_says_what_the_service_does(page: Page, faults: list[str]) -> None:
    expect(page.locator("#accepted")).to_have_text(
        "PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF, HEIC. Up to 16 MB and 16 megapixels each."
    )
    expect(page.locator("#privacy")).to_contain_text("30 days")
    for image in page.locator("#sample img").all():
        assert image.evaluate("(image) => image.naturalWidth") > 0
    assert faults == []


def test_example_is_divided_by_a_drag_anywhere_and_by_keys(page: Page) -> None:
    x, y, width, height = locate(page, "#sample .stage")
    page.mouse.move(x + width / 4, y + height / 4)
    page.mouse.down()
    page.mouse.move(x + width / 5, y + height / 4, steps=3)
    page.mouse.up()
    handle = page.locator("#sample .divider")
    assert handle.get_attribute("aria-valuenow") == "20"
    handle.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    assert handle.get_attribute("aria-valuenow") == "31"
    page.keyboard.press("End")
    assert handle.get_attribute("aria-valuenow") == "100"
    assert share(page) == 50  # the viewer's own


def test_example_is_tried_by_somebody_who_has_no_image_at_hand(page: Page) -> None:
    page.click("#try-sample")
    wait_for_words(page, "^240 × 160 → 720 × 480")
    page.click("#start")
    wait_for_comparison(page)


def test_page_is_small(page: Page) -> None:
    page.wait_for_load_state("networkidle")
    sizes = page.evaluate(
        """["resource", "navigation"].flatMap((type) => performance.getEntriesByType(type))
            .map((entry) => [new URL(entry.name).pathname, entry.decodedBodySize])"""
    )
    assert len(sizes) >= 15
    assert sum(size for _, size in sizes) < MAX_BYTES
    # With the working screen, in any language, as Nginx sends it: text is compressed.
    sources = {path for path in PAGE_DIR.rglob("*") if path.is_file()} - {PAGE_DIR / "client.d.ts"}
    texts = [path for path in sources if path.suffix in {".html", ".css", ".js", ".json", ".svg"}]
    pictures = [path for path in sources if path.suffix in {".jpg", ".webp", ".png"}]
    all_bytes = sum(len(gzip.compress(path.read_bytes())) for path in texts)
    assert all_bytes + sum(path.stat().st_size for path in pictures) < MAX_BYTES


def test_page_is_revalidated_and_its_files_are_kept(light_service: Service) -> None:
    page = loopback.get(light_service.url)
    assert page.headers["Cache-Control"] == "no-cache"
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
    assert page.headers["Referrer-Policy"] == "strict-origin-when-cross-origin"
    tag = {"If-None-Match": page.headers["ETag"]}
    assert loopback.get(light_service.url, headers=tag).status_code == 304
    paths = set(re.findall(r'(?:href|src)="(static/[^"]+)"', page.text))
    assert len(paths) >= 12
    for path in paths:
        file = loopback.get(f"{light_service.url}/{path}")
        assert (file.status_code, file.headers["Cache-Control"]) == (200, "public, max-age=604800")
        other = path.replace("static/", "static/0")
        assert loopback.get(f"{light_service.url}/{other}").status_code == 404


def test_every_file_of_the_page_is_sent_with_its_type(light_service: Service) -> None:
    page = loopback.get(light_service.url).text
    found = re.search(r"static/\w+/", page)
    assert found
    types = {
        "languages/zh.json": "application/json",
        "manifest.webmanifest": "application/manifest+json",
        "pictures/icon-192.png": "image/png",
        "pictures/enhanced.webp": "image/webp",
        "vendor/client-zip.js": "text/javascript; charset=utf-8",
        "vendor/licences.txt": "text/plain; charset=utf-8",
    }
    for path, content_type in types.items():
        file = loopback.get(f"{light_service.url}/{found[0]}{path}")
        assert (file.status_code, file.headers["Content-Type"]) == (200, content_type)
        assert file.content == (PAGE_DIR / path).read_bytes()


def test_manifest_names_icons_that_exist_and_this_page(page: Page, light_service: Service) -> None:
    link = page.locator("link[rel=manifest]").evaluate("(link) => link.href")
    manifest = loopback.get(link).json()
    assert httpx.URL(link).join(manifest["start_url"]) == f"{light_service.url}/"
    for icon in manifest["icons"]:
        answer = loopback.get(httpx.URL(link).join(icon["src"]))
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, icon["type"])
    session = page.context.new_cdp_session(page)
    assert session.send("Page.getAppManifest")["errors"] == []
    assert json.loads(session.send("Page.getAppManifest")["data"]) == manifest


def test_client_module_is_revalidated_and_open_to_all_origins(light_service: Service) -> None:
    for name in ("client.js", "client.d.ts"):
        headers = {"Origin": "https://any.example"}
        module = loopback.get(f"{light_service.url}/static/{name}", headers=headers)
        assert module.headers["Cache-Control"] == "no-cache"
        assert module.headers["Access-Control-Allow-Origin"] == "*"
        assert module.content == (PAGE_DIR / name).read_bytes()
        tag = {"If-None-Match": module.headers["ETag"]}
        answer = loopback.get(f"{light_service.url}/static/{name}", headers=tag)
        assert answer.status_code == 304
    assert loopback.get(f"{light_service.url}/static/page.js").status_code == 404


def test_contract_is_shown_without_outside_hosts(
    page: Page, light_service: Service, faults: list[str]
) -> None:
    hosts = set()
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    page.goto(f"{light_service.url}/docs")
    expect(page.locator(".opblock-summary-path").first).to_have_text("/api/enhance")
    assert page.locator(".opblock").count() == 13
    page.locator("#operations-pictures-enhance .opblock-summary").click()
    expect(page.locator("#operations-pictures-enhance .responses-wrapper")).to_be_visible()
    assert hosts == {light_service.url.removeprefix("http://")}
    assert faults == []
