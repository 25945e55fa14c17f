"""`GET /image/...`: signed addresses, caching, and what happens while a source changes or fails."""

import re
import threading
import time
from dataclasses import replace
from email.utils import parsedate_to_datetime
from io import BytesIO

import limits
import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from superres.errors import DatabaseDown, TooCostly
from superres.service import recent_failures
from superres.service import sources as sources_module
from superres.settings import Settings
from superres.sources.signed_address import (
    AUTO,
    encode_base64,
    make_signature,
)
from testkit.app_client import AppMaker, assert_problem, upload
from testkit.fakes import FakeModel
from testkit.image_addresses import KEY, picture, shade_of, sign
from testkit.source_server import Page, SourceServer
from testkit.waiting import wait_until

OTHER_KEY = "o" * 32
FRESH, STALE = {"Cache-Control": "max-age=600"}, {"Cache-Control": "max-age=0"}


@pytest.fixture
def app(make_app: AppMaker, images: Settings) -> Flask:
    return make_app(images)


def test_image_is_fetched_enhanced_and_cacheable(
    client: FlaskClient, sources: SourceServer
) -> None:
    sources.pages["/a%20b.png"] = Page(picture(80), headers=FRESH)
    path = sign(sources.url("/a b.png"))
    first, second = client.get(path), client.get(path)
    assert shade_of(first) == shade_of(second) == 80
    assert first.data == upload(client, content=picture(80)).data
    assert len(sources.asked("/a%20b.png")) == 1
    headers = first.headers
    assert headers["Cache-Control"] == "public, max-age=600"
    assert headers["Age"] == "0"
    assert headers["X-Accel-Expires"] == "60"
    left = parsedate_to_datetime(headers["Expires"]).timestamp() - time.time()
    assert 590 < left <= 600
    assert headers["Access-Control-Allow-Origin"] == "*"
    assert "Vary" not in headers
    assert headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert headers["Content-Disposition"] == 'inline; filename="a b.png"'
    assert "Last-Modified" not in headers
    assert first.content_type == "image/png"
    head = client.head(path)
    assert (head.status_code, head.content_length, head.data) == (200, len(first.data), b"")


def test_client_with_a_copy_gets_304(client: FlaskClient, sources: SourceServer) -> None:
    sources.pages["/a.png"] = Page(picture(80), headers=FRESH)
    path = sign(sources.url("/a.png"))
    etag = client.get(path).headers["ETag"]
    again = client.get(path, headers={"If-None-Match": etag})
    assert (again.status_code, again.data) == (304, b"")
    assert again.headers["ETag"] == etag
    assert again.headers["Cache-Control"] == "public, max-age=600"
    # The image before it may have been stored later.
    dated = client.get(path, headers={"If-Modified-Since": "Thu, 01 Jan 2099 00:00:00 GMT"})
    assert dated.status_code == 200
    assert_problem(client.get(path, headers={"If-Match": '"x"'}), 412, "precondition_failed")


def test_addresses_do_not_exist_without_a_key(make_app: AppMaker) -> None:
    assert_problem(make_app().test_client().get(sign("http://a.example/")), 404, "not_found")


def test_only_what_is_signed_is_answered(client: FlaskClient, sources: SourceServer) -> None:
    sources.pages["/a.png"] = Page(picture(80), headers=FRESH)
    path = sign(sources.url("/a.png"), scale="2")
    _, _, signature, options, source = path.split("/")
    for changed in (
        f"/image/{signature}/scale:4/{source}",
        f"/image/{signature}/{options},quality:9/{source}",
        f"/image/{signature}/{options}/{source.replace('.png', '.webp')}",
        f"/image/{signature}/{options}/x{source}",
        f"/image/{signature[:-1]}/{options}/{source}",
        f"/image/{'A' * 43}/{options}/{source}",
        f"/image/é/{options}/{source}",
        f"/image/{options}/{source}",
        f"/image{path}",
        "/image/",
        sign(sources.url("/a.png"), key=OTHER_KEY),
    ):
        response = client.get(changed)
        assert_problem(response, 403, "bad_signature")
        assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert not sources.requests
    assert client.get(path).status_code == 200


def test_two_keys_are_valid_while_one_replaces_the_other(
    make_app: AppMaker, images: Settings, sources: SourceServer
) -> None:
    sources.pages["/a.png"] = Page(picture(80), headers=FRESH)
    client = make_app(replace(images, url_key=(OTHER_KEY, KEY))).test_client()
    for key in (KEY, OTHER_KEY):
        assert shade_of(client.get(sign(sources.url("/a.png"), key=key))) == 80
    assert_problem(client.get(sign(sources.url("/a.png"), key="x" * 32)), 403, "bad_signature")


def test_expired_address_is_refused_and_copies_do_not_outlive_it(
    client: FlaskClient, sources: SourceServer
) -> None:
    sources.pages["/a.png"] = Page(picture(80), headers=FRESH)
    now = int(time.time())
    valid = client.get(sign(sources.url("/a.png"), expires=now + 100))
    assert shade_of(valid) == 80
    found = re.fullmatch(r"public, max-age=(\d+), must-revalidate", valid.headers["Cache-Control"])
    assert found is not None
    assert 95 <= int(found[1]) <= 100
    # Nginx would use its copy longer, while the service is away.
    assert valid.headers["X-Accel-Expires"] == "0"
    assert_problem(client.get(sign(sources.url("/a.png"), expires=now - 1)), 403, "address_expired")


def test_options_are_those_of_uploads(client: FlaskClient, sources: SourceServer) -> None:
    sources.pages["/a.png"] = Page(picture(80), headers=FRESH)
    url = sources.url("/a.png")
    wide = client.get(sign(url, "webp", width="60", quality="70", mode="restore"))
    assert wide.content_type == "image/webp"
    image = Image.open(BytesIO(wide.data))
    assert image.size == (60, 40)
    assert abs(shade_of(wide) - (255 - 80)) <= 2
    assert len(sources.asked("/a.png")) == 1
    for path in (make_raw(url, "scale:9", "png"), make_raw(url, "colour:1", "png")):
        assert_problem(client.get(path), 400, "bad_request")
    for path in (
        make_raw(url, "scale", "png"),
        make_raw(url, "scale:2,scale:2", "png"),
        make_raw(url, "scale:2", "gif"),
        make_raw(url, "fallback:me", "png"),
        make_raw(url, "expires:soon", "png"),
        make_raw(url, "lossless:true", AUTO),
        make_raw(url, "quality:0", AUTO),
        make_signed("scale:2/_____.png"),
    ):
        assert_problem(client.get(path), 400, "bad_request")


def make_signed(signed: str) -> str:
    return f"/image/{make_signature(KEY, signed)}/{signed}"


def make_raw(url: str, options: str, ending: str) -> str:
    return make_signed(f"{options}/{encode_base64(url.encode())}.{ending}")


@pytest.mark.parametrize(
    ("accept", "mode", "expected"),
    [
        ("image/avif,image/webp,image/*,*/*;q=0.8", "RGB", "image/avif"),
        ("image/webp,*/*", "RGBA", "image/webp"),
        ("image/avif;q=0, image/webp", "RGB", "image/webp"),
        ("image/*,*/*", "RGB", "image/jpeg"),
        ("", "RGBA", "image/png"),
    ],
)
def test_auto_is_the_best_that_the_client_names(
    client: FlaskClient, sources: SourceServer, accept: str, mode: str, expected: str
) -> None:
    sources.pages["/a.png"] = Page(picture(80, mode), headers=FRESH)
    path = sign(sources.url("/a.png"), AUTO, quality="80")
    for _ in range(2):
        response = client.get(path, headers={"Accept": accept} if accept else {})
        assert response.content_type == expected
        assert response.headers["Vary"] == "Accept"


def test_source_is_asked_again_when_it_is_stale(client: FlaskClient, sources: SourceServer) -> None:
    sources.pages["/a.png"] = Page(picture(80), headers={"ETag": '"1"', **STALE})
    path = sign(sources.url("/a.png"))
    assert shade_of(client.get(path)) == 80
    assert shade_of(client.get(path)) == 80
    first, second = sources.asked("/a.png")
    assert "If-None-Match" not in first
    assert second["If-None-Match"] == '"1"'
    sources.pages["/a.png"] = Page(picture(90), headers={"ETag": '"2"', **FRESH})
    assert shade_of(client.get(path)) == 90
    assert shade_of(client.get(path)) == 90
    assert len(sources.asked("/a.png")) == 3
    statistics = client.get("/api/stats").get_json()
    assert statistics["source_fetches"] == 1
    assert statistics["source_revalidations"] == 2


def test_old_image_stays_while_the_source_is_down(
    client: FlaskClient, sources: SourceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources.pages["/a.png"] = Page(picture(80), headers=STALE)
    path = sign(sources.url("/a.png"))
    assert shade_of(client.get(path)) == 80
    sources.is_down = True
    for _ in range(3):
        old = client.get(path)
        assert shade_of(old) == 80
        assert old.headers["X-Accel-Expires"] == "0"
    assert len(sources.asked("/a.png")) == 2  # the failure is remembered
    sources.is_down = False
    sources.pages["/a.png"] = Page(picture(90), headers=STALE)
    assert shade_of(client.get(path)) == 80
    start_over(monkeypatch)
    assert shade_of(client.get(path)) == 90


def start_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let so much time pass that no failure is remembered."""
    now = time.monotonic
    monkeypatch.setattr(recent_failures, "monotonic", lambda: now() + 60)


def test_image_that_is_gone_at_its_source_is_gone_here(
    client: FlaskClient, sources: SourceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources.pages["/a.png"] = Page(picture(80), headers=STALE)
    path = sign(sources.url("/a.png"))
    assert shade_of(client.get(path)) == 80
    del sources.pages["/a.png"]
    for _ in range(3):
        assert_problem(client.get(path), 404, "source_not_found")
    assert len(sources.asked("/a.png")) == 2
    sources.pages["/a.png"] = Page(picture(80), headers=FRESH)
    start_over(monkeypatch)
    assert shade_of(client.get(path)) == 80


@pytest.mark.parametrize("directives", ["no-cache", "max-age=0, must-revalidate", "private"])
def test_strict_source_is_asked_each_time(
    client: FlaskClient, sources: SourceServer, directives: str
) -> None:
    page = Page(picture(80), headers={"ETag": '"1"', "Cache-Control": directives})
    sources.pages["/a.png"] = page
    path = sign(sources.url("/a.png"))
    for _ in range(2):
        response = client.get(path)
        assert shade_of(response) == 80
        is_kept = "private" not in directives
        assert ("public" in response.headers["Cache-Control"]) == is_kept
        assert (response.headers["Cache-Control"] == "no-store") != is_kept
        assert response.headers.get("X-Accel-Expires", "0") == "0"
    assert len(sources.asked("/a.png")) == 2
    sources.is_down = True
    assert_problem(client.get(path), 502, "source_unavailable")


def test_extensions_for_stale_copies_are_passed_on(
    client: FlaskClient, sources: SourceServer
) -> None:
    said = "max-age=9, s-maxage=500, Stale-While-Revalidate=30, stale-if-error=86400, foo"
    sources.pages["/a.png"] = Page(picture(80), headers={"Cache-Control": said, "Age": "100"})
    response = client.get(sign(sources.url("/a.png")))
    assert response.headers["Cache-Control"] == (
        "public, max-age=0, s-maxage=400, stale-while-revalidate=30, stale-if-error=86400"
    )


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("max-age=60, s-maxage=600", "max-age=60, s-maxage=600, must-revalidate"),
        ("max-age=0, s-maxage=600", "max-age=0, s-maxage=600, must-revalidate"),
        ("max-age=600, s-maxage=60", "max-age=60, must-revalidate"),
        ("s-maxage=600", "max-age=600, must-revalidate"),
    ],
)
def test_browsers_keep_images_no_longer_than_the_source_lets_them(
    client: FlaskClient, sources: SourceServer, said: str, expected: str
) -> None:
    sources.pages["/a.png"] = Page(picture(80), headers={"Cache-Control": said})
    path = sign(sources.url("/a.png"))
    before = int(time.time())
    response = client.get(path)
    assert response.headers["Cache-Control"] == f"public, {expected}"
    lifetime = int(expected.partition(",")[0].removeprefix("max-age="))
    expires = parsedate_to_datetime(response.headers["Expires"]).timestamp()
    assert before <= expires - lifetime <= time.time()
    assert client.get(path).status_code == 200
    assert len(sources.asked("/a.png")) == 1


def test_old_image_stays_while_the_new_one_is_computed(
    client: FlaskClient,
    sources: SourceServer,
    fake_model: FakeModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources_module, "PATIENCE_SECONDS", 0.2)
    sources.pages["/a.png"] = Page(picture(80), headers=STALE)
    path = sign(sources.url("/a.png"))
    assert shade_of(client.get(path)) == 80
    sources.pages["/a.png"] = Page(picture(90), headers=FRESH)
    fake_model.may_go_on.clear()
    for _ in range(3):
        assert shade_of(client.get(path)) == 80
    assert len(sources.asked("/a.png")) == 2
    fake_model.may_go_on.set()
    wait_until(lambda: shade_of(client.get(path)) == 90)
    assert len(sources.asked("/a.png")) == 2


def test_client_goes_to_the_source_while_there_is_no_image(
    client: FlaskClient,
    sources: SourceServer,
    fake_model: FakeModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources_module, "PATIENCE_SECONDS", 0.2)
    sources.pages["/a.png"] = Page(picture(80), headers=FRESH)
    sources.pages["/page.html"] = Page(b"<html>", headers=FRESH)
    fake_model.may_go_on.clear()
    path = sign(sources.url("/a.png"), falls_back=True)
    response = client.get(path)
    assert (response.status_code, response.location) == (302, sources.url("/a.png"))
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    fake_model.may_go_on.set()
    wait_until(lambda: client.get(path).status_code == 200)
    assert shade_of(client.get(path)) == 80
    assert len(sources.asked("/a.png")) == 1
    # No hole in the page either, where there will be no image.
    other = client.get(sign(sources.url("/page.html"), falls_back=True))
    assert other.status_code == 302
    assert client.get(sign("http://10.0.0.1/a.png", falls_back=True)).status_code == 403


def test_image_that_no_request_could_wait_for_becomes_a_job(
    make_app: AppMaker, images: Settings, sources: SourceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources_module, "PATIENCE_SECONDS", 0.2)
    app = make_app(images)
    runner = app.extensions["runner"]
    client = app.test_client()
    sources.pages["/a.png"] = Page(picture(80), headers=FRESH)

    def refuse(*_: object) -> None:
        raise TooCostly("The image alone would take longer than a request may wait.")

    monkeypatch.setattr(runner.scheduler, "admit", refuse)
    assert_problem(client.get(sign(sources.url("/a.png"))), 422, "too_costly_sync")
    path = sign(sources.url("/a.png"), falls_back=True)
    assert client.get(path).status_code == 302
    wait_until(lambda: client.get(path).status_code == 200)
    assert shade_of(client.get(path)) == 80


def test_source_is_fetched_once_for_all_who_ask(
    client: FlaskClient, app: Flask, sources: SourceServer, fake_model: FakeModel
) -> None:
    arrived = threading.Event()
    sources.pages["/a.png"] = Page(picture(80), headers=FRESH, before=arrived.wait)
    paths = [sign(sources.url("/a.png"), width=str(width)) for width in (36, 36, 48, 60, 72)]
    answers: list[TestResponse] = []
    threads = [
        threading.Thread(target=lambda path=path: answers.append(app.test_client().get(path)))
        for path in paths
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: bool(sources.asked("/a.png")))
    arrived.set()
    for thread in threads:
        thread.join()
    widths = sorted(Image.open(BytesIO(each.data)).size[0] for each in answers)
    assert widths == [36, 36, 48, 60, 72]
    assert len(sources.asked("/a.png")) == 1


def test_failures_are_told_and_remembered(client: FlaskClient, sources: SourceServer) -> None:
    sources.pages |= {
        "/error": Page(b"", 500),
        "/page": Page(b"<html></html>"),
        "/empty": Page(b""),
        "/large": Page(b"x", headers={"Content-Length": str(2**40)}),
        "/cut": Page(picture(80)[:-30]),
    }
    for path, status, code in (
        ("/none", 404, "source_not_found"),
        ("/error", 502, "source_unavailable"),
        ("/empty", 502, "source_unavailable"),
        ("/large", 413, "source_too_large"),
        ("/page", 415, "unsupported_media_type"),
    ):
        for _ in range(2):
            assert_problem(client.get(sign(sources.url(path))), status, code)
        assert len(sources.asked(path)) == 1
    assert_problem(client.get(sign(sources.url("/cut"))), 422, "undecodable_image")
    metrics = client.get("/metrics").get_data(as_text=True)
    assert 'sr_source_failures_total{code="source_not_found"} 1.0' in metrics
    assert "sr_source_fetches_total 6.0" in metrics


def test_address_that_leads_back_here_is_refused(
    client: FlaskClient, sources: SourceServer
) -> None:
    sources.pages["/a.png"] = Page(picture(80), headers=STALE)
    path = sign(sources.url("/a.png"))
    assert client.get(path).status_code == 200
    loop_id = sources.asked("/a.png")[0]["CDN-Loop"]
    assert_problem(
        client.get(path, headers={"CDN-Loop": f"other.example, {loop_id}"}), 403, "source_refused"
    )


def test_limits_are_its_own(make_app: AppMaker, images: Settings, sources: SourceServer) -> None:
    sources.pages["/a.png"] = Page(picture(80), headers=FRESH)
    sources.pages["/b.png"] = Page(picture(90), headers=FRESH)
    limited = replace(
        images,
        rate_limit_requests=limits.parse("1/hour"),
        rate_limit_pixels=limits.parse("1/hour"),
        rate_limit_image_requests=limits.parse("4/hour"),
        rate_limit_image_pixels=limits.parse("100/hour"),
    )
    client = make_app(limited).test_client()
    first, second = (sign(sources.url(path)) for path in ("/a.png", "/b.png"))
    assert client.get(first).status_code == 200
    refused = client.get(second)
    assert_problem(refused, 429, "rate_limited")
    assert "Retry-After" in refused.headers
    assert client.get(first).status_code == 200
    assert "RateLimit" not in client.get(first).headers
    assert_problem(client.get(first), 429, "rate_limited")
    # No hole in the page: this one's author has said what to show instead.
    assert client.get(sign(sources.url("/a.png"), falls_back=True)).status_code == 302
    other = client.get(first, environ_base={"REMOTE_ADDR": "192.0.2.9"})
    assert other.status_code == 200


def test_what_was_fetched_is_known_after_a_restart(
    make_app: AppMaker, images: Settings, sources: SourceServer
) -> None:
    sources.pages["/a.png"] = Page(picture(80), headers=FRESH)
    path = sign(sources.url("/a.png"))
    for _ in range(2):
        app = make_app(images)
        assert shade_of(app.test_client().get(path)) == 80
        app.extensions["runner"].stop()
    assert len(sources.asked("/a.png")) == 1


def test_images_are_served_while_the_database_is_down(
    client: FlaskClient, app: Flask, sources: SourceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources.pages["/a.png"] = Page(picture(80), headers=FRESH)
    path = sign(sources.url("/a.png"))
    assert shade_of(client.get(path)) == 80

    def fail(*_: object) -> None:
        raise DatabaseDown("The database is not available.")

    monkeypatch.setattr(app.extensions["runner"].jobs.database, "execute", fail)
    assert shade_of(client.get(path)) == 80
    assert len(sources.asked("/a.png")) == 1
    # Others are made, also where a job might be making them.
    other = sign(sources.url("/a.png"), "webp", falls_back=True)
    wait_until(lambda: client.get(other).status_code == 200)


def test_network_runs_once_for_all_widths_and_formats(
    client: FlaskClient, sources: SourceServer
) -> None:
    sources.pages["/a.png"] = Page(picture(80), headers=FRESH)
    for image_format, width in (("webp", "36"), ("jpeg", "60"), ("png", "24"), (AUTO, "36")):
        path = sign(sources.url("/a.png"), image_format, width=width)
        assert Image.open(BytesIO(client.get(path).data)).size[0] == int(width)
    assert client.get("/api/stats").get_json()["inferences"] == 1
