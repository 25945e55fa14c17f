"""Pages of other origins in a real browser: what they may do, and what browsers cache."""

import base64
import hashlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from testkit import loopback
from testkit.pictures import encode
from testkit.service import Service, run_service
from tests.e2e.browser import ChromiumTab, Tab, run_chromium, run_site
from tests.e2e.firefox import run_firefox

# Draws an image of one colour, and uploads it as a page would.
HELPERS = """
globalThis.draw = async (colour, side = 16) => {
  const canvas = new OffscreenCanvas(side, side);
  const context = canvas.getContext("2d");
  context.fillStyle = colour;
  context.fillRect(0, 0, side, side);
  return canvas.convertToBlob();
};
globalThis.post = async (colour, headers = {}, side = 16) => fetch(
  `${SERVICE}/api/enhance`,
  {
    method: "POST",
    body: await draw(colour, side),
    headers: { "Content-Type": "image/png", ...headers },
  },
);
globalThis.loadImage = (url, crossOrigin) => new Promise((resolve, reject) => {
  const image = new Image();
  if (crossOrigin) image.crossOrigin = crossOrigin;
  image.onload = () => resolve(image);
  image.onerror = () => reject(new Error("the image was refused"));
  image.src = url;
});
null;
"""


OpenTab = Callable[[], Tab]


@pytest.fixture(scope="module", params=["chromium", "firefox"])
def open_tab(request: pytest.FixtureRequest) -> Iterator[OpenTab]:
    if request.param == "chromium":
        with run_chromium() as chromium:
            yield lambda: ChromiumTab(chromium)
    else:
        with run_firefox() as firefox:
            yield firefox.open_tab


@pytest.fixture(scope="module")
def allowed() -> Iterator[str]:
    with run_site() as origin:
        yield origin


@pytest.fixture(scope="module")
def refused() -> Iterator[str]:
    with run_site() as origin:
        yield origin


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, allowed: str, open_tab: OpenTab
) -> Iterator[Service]:
    """One for each browser, so that neither finds the other's results."""
    with run_service(tmp_path_factory.mktemp("service"), cors_origins=allowed, lanes=1) as running:
        yield running


def open_page(open_tab: OpenTab, origin: str, service: Service) -> Tab:
    tab = open_tab()
    tab.goto(origin)
    tab.evaluate(f"globalThis.SERVICE = '{service.url}'; {HELPERS}")
    return tab


@pytest.fixture
def page(open_tab: OpenTab, allowed: str, service: Service) -> Iterator[Tab]:
    """A page of the allowed origin."""
    opened = open_page(open_tab, allowed, service)
    yield opened
    opened.close()


@pytest.fixture
def foreign_page(open_tab: OpenTab, refused: str, service: Service) -> Iterator[Tab]:
    opened = open_page(open_tab, refused, service)
    yield opened
    opened.close()


def run(page: Tab, script: str) -> Any:
    """Run the body of an async function; if it throws, return the error's name."""
    return page.evaluate(
        f"(async () => {{ try {{ {script} }} catch (error) {{ return error.name; }} }})()"
    )


def test_allowed_page_sends_own_headers_and_reads_exposed_ones(page: Tab) -> None:
    headers = run(
        page,
        """const answer = await post("#102030", { "X-Request-ID": "from-page" });
        const size = (await createImageBitmap(await answer.blob())).width;
        const names = ["etag", "link", "x-cache-hit", "x-request-id", "content-disposition"];
        return [answer.status, size, ...names.map((name) => answer.headers.get(name))];""",
    )
    assert headers[:2] == [200, 48]
    assert headers[2].startswith('"')
    assert "/cache/" in headers[3]
    assert headers[4:] == ["false", "from-page", 'inline; filename="image_x3.png"']


def test_allowed_page_uses_prefer_and_delete(page: Tab) -> None:
    result = run(
        page,
        """const answer = await post("#111111", { Prefer: "respond-async" }, 900);
        const place = answer.headers.get("location");
        const shown = await (await fetch(place, { headers: { Prefer: "wait=1" } })).json();
        const removed = await fetch(place, { method: "DELETE" });
        const after = await (await fetch(place)).json();
        return [answer.status, answer.headers.get("preference-applied"), shown.id.length,
            removed.status, after.state];""",
    )
    assert result == [202, "respond-async", 24, 204, "cancelled"]


def test_allowed_page_reads_errors(page: Tab) -> None:
    result = run(
        page,
        """const answer = await fetch(`${SERVICE}/api/enhance`,
            { method: "POST", body: "no picture", headers: { "Content-Type": "image/png" } });
        return [answer.status, (await answer.json()).code];""",
    )
    assert result == [415, "unsupported_media_type"]


def test_allowed_page_imports_the_client_and_enlarges(page: Tab) -> None:
    result = run(
        page,
        """const { enhance } = await import(`${SERVICE}/static/client.js`);
        const seen = [];
        const onProgress = ({ state }) => seen.push(state);
        const options = { format: "webp", scale: 2 };
        const first = await enhance(await draw("#204060"), { onProgress, ...options });
        const again = await enhance(await draw("#204060"), options);
        const size = (await createImageBitmap(first.blob)).width;
        return [size, first.blob.type, first.cacheHit, again.cacheHit, seen.slice(0, 2)];""",
    )
    assert result == [32, "image/webp", False, True, ["hashing", "uploading"]]


def test_aborted_signal_withdraws_the_job(page: Tab, service: Service) -> None:
    noise = np.random.default_rng(4).integers(0, 256, (90, 90, 3), np.uint8)
    large = encode(Image.fromarray(noise).resize((1300, 1300)), "JPEG", quality=60)
    encoded = base64.b64encode(large).decode()
    page.evaluate(
        f"const bytes = Uint8Array.from(atob('{encoded}'), (each) => each.charCodeAt(0));"
        "globalThis.large = new Blob([bytes]); null;"
    )
    name = run(
        page,
        """const { enhance } = await import(`${SERVICE}/static/client.js`);
        const controller = new AbortController();
        const onProgress = ({ state }) => state === "running" && controller.abort();
        await enhance(large, { onProgress, signal: controller.signal });
        return "not aborted";""",
    )
    assert name == "AbortError"
    deadline = time.monotonic() + 20
    while loopback.get(f"{service.url}/api/stats").json()["queue_pixels"]:
        assert time.monotonic() < deadline
    assert "DELETE /api/jobs/" in service.log


def test_refused_page_is_blocked_and_nothing_is_computed(
    foreign_page: Tab, page: Tab, service: Service
) -> None:
    before = run(page, "return (await (await fetch(`${SERVICE}/api/stats`)).json()).inferences;")
    assert run(foreign_page, 'return (await post("#222222")).status;') == "TypeError"
    # A simple request needs no preflight: it arrives, and is rejected before it costs anything.
    blind = """const form = new FormData();
        form.append("image", await draw("#333333"), "a.png");
        const answer = await fetch(`${SERVICE}/api/enhance`,
            { method: "POST", body: form, mode: "no-cors" });
        return answer.type;"""
    assert run(foreign_page, blind) == "opaque"
    after = run(page, "return (await (await fetch(`${SERVICE}/api/stats`)).json()).inferences;")
    assert after == before
    assert " 403 " in service.log


def stored_url(page: Tab, colour: str) -> str:
    link: str = run(page, f'return (await post("{colour}")).headers.get("link");')
    return link.split(">")[0].removeprefix("<")


def test_any_page_shows_results_and_reads_their_pixels(foreign_page: Tab, page: Tab) -> None:
    url = stored_url(page, "#445566")
    # Plain first: a cached response without CORS headers would break the second request.
    pixel = run(
        foreign_page,
        f"""await loadImage("{url}");
        const image = await loadImage("{url}", "anonymous");
        const canvas = new OffscreenCanvas(1, 1);
        canvas.getContext("2d").drawImage(image, 0, 0);
        return [...canvas.getContext("2d").getImageData(0, 0, 1, 1).data];""",
    )
    assert np.abs(np.array(pixel) - [0x44, 0x55, 0x66, 255]).max() <= 2


def test_browser_keeps_a_result_and_asks_no_second_time(page: Tab, service: Service) -> None:
    url = stored_url(page, "#556677")
    path = url.removeprefix(service.url)
    fetch = f'return (await (await fetch("{url}")).blob()).size;'
    sizes = [run(page, fetch)]
    run(page, 'return (await post("#556677")).status;')  # a POST of the same image does no harm
    sizes.append(run(page, fetch))
    page.reload()
    page.evaluate(f"globalThis.SERVICE = '{service.url}'; {HELPERS}")
    sizes.append(run(page, fetch))
    assert len(set(sizes)) == 1
    assert service.log.count(f"GET {path} ") == 1


def test_browser_revalidates_a_result_with_304(page: Tab, service: Service) -> None:
    url = stored_url(page, "#667788")
    path = url.removeprefix(service.url)
    for cache in ("default", "no-cache"):
        status = run(page, f'return (await fetch("{url}", {{ cache: "{cache}" }})).status;')
        assert status == 200  # as seen by the page; the network saw 304
    assert service.log.count(f"GET {path} 200") == 1
    assert service.log.count(f"GET {path} 304") == 1


def test_hash_in_the_page_is_the_services(page: Tab) -> None:
    digest = run(
        page,
        """const bytes = new TextEncoder().encode("picture");
        const digest = await crypto.subtle.digest("SHA-256", bytes);
        return [...new Uint8Array(digest)].map((b) => b.toString(16).padStart(2, "0")).join("");""",
    )
    assert digest == hashlib.sha256(b"picture").hexdigest()
