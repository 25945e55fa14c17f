"""Images by their addresses behind other caches than Nginx's: what the documents say of them."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import httpx
from PIL import Image
from playwright.sync_api import Browser

from superres.paths import PROJECT_DIR
from superres.sources.signed_address import AUTO, ImageRequest, sign_address
from testkit import loopback
from testkit.pictures import encode
from testkit.service import find_free_port, run_light_service
from testkit.source_server import Page, run_source_server
from testkit.waiting import START_SECONDS, wait_until
from tests.e2e.test_nginx_images import ACCEPTED, JPEG, KEY


@contextmanager
def run_varnish(folder: Path, app_port: int) -> Iterator[str]:
    """Run Varnish with the shipped rules in front of a service; yield its URL."""
    folder.mkdir()
    rules = folder / "rules.vcl"
    text = (PROJECT_DIR / "deploy" / "varnish.vcl").read_text()
    assert '"7860"' in text
    rules.write_text(text.replace('"7860"', f'"{app_port}"'))
    port = find_free_port()
    command = ["varnishd", "-F", "-n", str(folder), "-f", str(rules), "-a", f"127.0.0.1:{port}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, "-j", "none"], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + START_SECONDS
    try:
        while True:
            try:
                assert loopback.get(f"{url}/api/health").status_code == 200
                break
            except (httpx.TransportError, AssertionError):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((folder / "log").read_text()) from None
                time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def test_varnish_keeps_three_copies_and_old_ones_while_the_service_is_away(tmp_path: Path) -> None:
    with (
        run_source_server() as sources,
        run_light_service(
            tmp_path / "service", url_key=KEY, source_networks="127.0.0.0/8", trusted_proxies=1
        ) as service,
        run_varnish(tmp_path / "varnish", httpx.URL(service.url).port or 0) as url,
        httpx.Client(base_url=url, timeout=60, headers={"Cookie": "a=b"}) as client,
    ):
        image = encode(Image.new("RGB", (12, 8), (80, 80, 80)), "PNG")
        for name, directives in (
            ("/long", "max-age=600"),
            ("/short", "max-age=1"),
            ("/strict", "max-age=1, must-revalidate"),
        ):
            sources.pages[name] = Page(image, headers={"Cache-Control": directives})
        long, short, strict = (
            sign_address(KEY, ImageRequest(sources.url(name), AUTO, {"scale": "2"}))
            for name in ("/long", "/short", "/strict")
        )
        for number in range(2):
            for accept, media_type in ACCEPTED:
                answer = client.get(f"{long}?{number}", headers={"Accept": accept})
                assert answer.headers["Content-Type"] == media_type, accept
                assert answer.headers["Vary"] == "Accept"
        assert service.log.count(f" request: GET {quote(long)} ") == 3
        for _ in range(3):
            refused = client.get(long.replace("scale:2", "scale:3"))
            assert (refused.status_code, refused.json()["code"]) == (403, "bad_signature")
        assert service.log.count(f" request: GET {quote(long.replace('scale:2', 'scale:3'))} ") == 3
        # The API passes, uncached.
        stats = [client.get("/api/stats").json()["source_hits"] for _ in range(2)]
        assert stats[0] == stats[1]
        shown = [client.get(path) for path in (short, strict)]
        assert [Image.open(BytesIO(each.content)).size for each in shown] == [(24, 16)] * 2
        service.kill()
        wait_until(lambda: client.get(strict).status_code == 503)
        old = client.get(short)
        assert (old.status_code, old.headers["Content-Type"]) == (200, JPEG)
        assert old.content == shown[0].content


def test_function_for_cloudfront_folds_as_nginx_does(browser: Browser) -> None:
    text = (PROJECT_DIR / "docs" / "deploy.md").read_text()
    (function,) = re.findall(r"```js\n( +function handler.*?)```", text, re.DOTALL)
    page = browser.new_context().new_page()
    for accept, media_type in ACCEPTED:
        for path, expected in (
            ("/image/x/scale:3/y.auto", "*/*" if media_type == JPEG else media_type),
            ("/image/x/scale:3/y.png", "*/*"),
        ):
            headers = {"accept": {"value": accept}} if accept else {}
            event = json.dumps({"request": {"uri": path, "headers": headers}})
            found = page.evaluate(
                f"(() => {{ {function}; return handler({event}).headers.accept.value; }})()"
            )
            assert found == expected, accept
    page.context.close()
