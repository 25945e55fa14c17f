"""Images by their addresses on a page of another origin, through Nginx, in real browsers."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import httpx
import numpy as np
import pytest
from PIL import Image

from superres.paths import PROJECT_DIR
from superres.sources.signed_address import AUTO, ImageRequest, sign_address
from testkit import loopback
from testkit.pictures import encode
from testkit.service import Service, run_light_service
from testkit.source_server import Page, SourceServer, run_source_server
from testkit.waiting import wait_until
from tests.e2e.browser import ChromiumTab, Tab, run_chromium
from tests.e2e.firefox import run_firefox
from tests.e2e.nginx import HOST, Nginx, run_nginx

KEY = "k" * 32
NUMBER = 30
# For which a failure is remembered.
FAILURE_SECONDS = 10
SHORT_SECONDS = 10
FRESH, SHORT = "max-age=600", f"max-age={SHORT_SECONDS}"
WIDTHS = (480, 960, 1440)

OpenTab = Callable[[], Tab]

# What the page shows: the size of each image, 0 for a hole; and the colour of its middle.
SIZES = "[...document.images].map((each) => [each.naturalWidth, each.naturalHeight])"
COLOURS = """[...document.images].map((each) => {
  const context = new OffscreenCanvas(1, 1).getContext("2d");
  context.drawImage(each, each.naturalWidth / 2, each.naturalHeight / 2, 1, 1, 0, 0, 1, 1);
  return context.getImageData(0, 0, 1, 1).data[0];
})"""


@dataclass
class Stand:
    """A site, the images' server, and the service behind Nginx."""

    sources: SourceServer
    site: SourceServer
    service: Service
    nginx: Nginx
    open_tab: OpenTab

    def publish(self, name: str, shade: int, cache_control: str) -> None:
        """Put an image of one colour on its server."""
        image = Image.new("RGB", (40, 30), (shade, shade, shade))
        headers = {"Cache-Control": cache_control, "ETag": f'"{shade}"'}
        self.sources.pages[name] = Page(encode(image, "PNG"), headers=headers)

    def sign(self, name: str, image_format: str = AUTO, **texts: str) -> str:
        """Return the URL of an image, enhanced."""
        request = ImageRequest(self.sources.url(name), image_format, texts)
        return self.nginx.url + sign_address(KEY, request)

    def write_page(self, path: str, urls: list[str], attributes: str = "") -> str:
        """Put a page with images on the site; return its URL."""
        images = "".join(f'<img src="{url}" {attributes}>' for url in urls)
        return self.write_html(path, f"<!doctype html><link rel=icon href=data:,>{images}")

    def write_html(self, path: str, text: str) -> str:
        headers = {"Content-Type": "text/html", "Cache-Control": "no-store"}
        self.site.pages[path] = Page(text.encode(), headers=headers)
        return self.site.url(path)

    @property
    def asked_of_nginx(self) -> int:
        return len(self.nginx.answers("/image/"))

    @property
    def asked_of_the_service(self) -> int:
        return self.service.log.count(" request: GET /image/")


@pytest.fixture(scope="module", params=["chromium", "firefox"])
def stand(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stand]:
    folder = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        sources = stack.enter_context(run_source_server())
        site = stack.enter_context(run_source_server())
        service = stack.enter_context(
            run_light_service(
                folder / "service",
                trusted_proxies=1,
                trusted_hosts=HOST,
                url_key=KEY,
                source_networks="127.0.0.0/8",
            )
        )
        port = httpx.URL(service.url).port or 0
        nginx = stack.enter_context(run_nginx(folder / "nginx", port))
        open_tab: OpenTab
        if request.param == "chromium":
            # Chromium keeps nothing that came with a certificate that it was told to overlook.
            trust = f"--ignore-certificate-errors-spki-list={nginx.key_hash}"
            chromium = stack.enter_context(run_chromium(trust))

            def open_tab() -> Tab:
                return ChromiumTab(chromium)

        else:
            open_tab = stack.enter_context(run_firefox()).open_tab
        yield Stand(sources, site, service, nginx, open_tab)


@pytest.fixture
def tab(stand: Stand) -> Iterator[Tab]:
    opened = stand.open_tab()
    yield opened
    opened.close()


def publish_thirty(stand: Stand, group: str, shade: int, cache_control: str) -> list[str]:
    """Publish thirty images of different colours; return their enhanced URLs."""
    names = [f"/{group}-{number}.png" for number in range(NUMBER)]
    for number, name in enumerate(names):
        stand.publish(name, shade + 3 * number, cache_control)
    return [stand.sign(name) for name in names]


def asked_of_the_source(stand: Stand, group: str) -> int:
    return sum(len(stand.sources.asked(f"/{group}-{number}.png")) for number in range(NUMBER))


def shows(tab: Tab, shade: int) -> bool:
    """Tell whether all images of the page, which has been opened, are those of `publish_thirty`."""
    expected = shade + 3 * np.arange(NUMBER)
    assert tab.evaluate(SIZES) == [[120, 90]] * NUMBER
    return bool(np.abs(np.array(tab.evaluate(COLOURS)) - expected).max() <= 1)


def shows_only(tab: Tab, url: str) -> bool:
    """Tell whether a page's only image has been loaded from a URL."""
    return bool(
        tab.evaluate("[...document.images].map((each) => each.complete && each.currentSrc)")
        == [url]
    )


def test_page_shows_thirty_images_and_a_second_visit_asks_nobody(stand: Stand, tab: Tab) -> None:
    urls = publish_thirty(stand, "fresh", 20, FRESH)
    cors = 'crossorigin="anonymous"'
    pages = [stand.write_page(f"/{name}", urls, cors) for name in ("first", "second")]
    tab.goto(pages[0])
    assert shows(tab, 20)
    wait_until(lambda: stand.asked_of_nginx == NUMBER)
    assert set(stand.nginx.answers("/image/")) == {"200 MISS image/avif"}
    assert stand.asked_of_the_service == asked_of_the_source(stand, "fresh") == NUMBER
    # The same visitor, on another page.
    tab.goto(pages[1])
    assert shows(tab, 20)
    # Another visitor.
    other = stand.open_tab()
    other.goto(pages[1])
    assert shows(other, 20)
    other.close()
    wait_until(lambda: stand.asked_of_nginx >= 2 * NUMBER)
    assert stand.nginx.answers("/image/")[NUMBER:] == ["200 HIT image/avif"] * NUMBER
    assert stand.asked_of_the_service == NUMBER


def test_page_reads_images_with_fetch(stand: Stand, tab: Tab) -> None:
    stand.publish("/read.png", 77, FRESH)
    url = stand.sign("/read.png", "webp")
    tab.goto(stand.write_page("/read", [url]))
    # The browser has it from <img>, without CORS, and may take that.
    found = tab.evaluate(
        f"""(async () => {{
          const answer = await fetch("{url}");
          const image = await createImageBitmap(await answer.blob());
          const context = new OffscreenCanvas(1, 1).getContext("2d");
          context.drawImage(image, 0, 0);
          const [red] = context.getImageData(0, 0, 1, 1).data;
          const type = answer.headers.get("content-type");
          return [answer.type, type, image.width, red, answer.headers.get("etag")];
        }})()"""
    )
    assert found[:3] == ["cors", "image/webp", 120]
    assert abs(found[3] - 77) <= 1
    assert found[4].startswith('"')
    problem = tab.evaluate(
        f"""fetch("{url.replace("scale:3", "scale:4")}").then(
          async (answer) => [answer.status, (await answer.json()).code])"""
    )
    assert problem == [403, "bad_signature"]


def test_new_images_are_shown_after_their_age_and_old_ones_while_sources_are_down(
    stand: Stand, tab: Tab
) -> None:
    before = time.monotonic()
    page = stand.write_page("/news", publish_thirty(stand, "news", 20, SHORT), "crossorigin")

    def open_page() -> Tab:
        time.sleep(1)  # each visit costs half a second of CPU time
        tab.goto(page)
        return tab

    assert shows(open_page(), 20)
    publish_thirty(stand, "news", 130, SHORT)
    wait_until(lambda: shows(open_page(), 130))
    periods = int((time.monotonic() - before) / SHORT_SECONDS)
    assert 2 * NUMBER <= asked_of_the_source(stand, "news") <= (1 + periods) * NUMBER
    stand.sources.is_down = True
    try:
        statistics = f"{stand.service.url}/api/stats"

        def old_images_are_shown() -> bool:
            assert shows(open_page(), 130)
            return bool(loopback.get(statistics).json()["source_stale_hits"] >= NUMBER)

        wait_until(old_images_are_shown)
    finally:
        stand.sources.is_down = False


def test_dead_link_is_one_hole_and_fetched_once(stand: Stand, tab: Tab) -> None:
    stand.publish("/alive.png", 99, "no-cache")
    urls = [stand.sign(name) for name in ("/alive.png", "/dead.png", "/alive.png")]
    page = stand.write_page("/hole", urls)
    before = time.monotonic()
    for _ in range(3):
        tab.goto(page)
        assert tab.evaluate(SIZES) == [[120, 90], [0, 0], [120, 90]]
    periods = int((time.monotonic() - before) / FAILURE_SECONDS)
    assert len(stand.sources.asked("/dead.png")) <= 1 + periods


def test_example_has_three_widths_of_one_photograph(stand: Stand, tab: Tab) -> None:
    stand.publish("/photo.png", 50, FRESH)
    # So long that all three have asked when it arrives.
    stand.sources.pages["/photo.png"].before = lambda: time.sleep(2)
    urls = [stand.sign("/photo.png", width=str(width)) for width in WIDTHS]
    tab.goto(stand.write_page("/widths", urls))
    assert tab.evaluate(SIZES) == [[width, width * 3 // 4] for width in WIDTHS]
    assert len(stand.sources.asked("/photo.png")) == 1
    for url in urls:
        assert stand.nginx.answers(httpx.URL(url).path) == ["200 MISS image/avif"]
    text = (PROJECT_DIR / "docs" / "examples" / "srcset.html").read_text()
    address = r"https://sr\.example/image/SIGNATURE/width:(\d+)/SOURCE\.auto"
    assert {int(width) for width in re.findall(address, text)} == set(WIDTHS)
    signed = re.sub(address, lambda found: stand.sign("/photo.png", width=found[1]), text)
    # A visitor of its own: browsers take a larger image that they have.
    other = stand.open_tab()
    other.goto(stand.write_html("/example", signed))
    for shown, url in zip((480, 700, 1440), urls, strict=True):
        # As if the window were as wide.
        other.evaluate(f"document.images[0].sizes = '{shown}px'")
        wait_until(partial(shows_only, other, url))
        ((natural, _),) = other.evaluate(SIZES)
        assert abs(natural - shown) <= 1
    other.close()
