"""Images by their addresses while sources change, or send strange headers."""

import time
from collections.abc import Callable

import pytest
from flask import Flask
from flask.testing import FlaskClient

from superres.service import sources as sources_module
from superres.settings import Settings
from superres.sources.fetcher import Validators
from superres.sources.freshness import Freshness
from superres.sources.source_records import SourceRecord, SourceRecords
from testkit.app_client import AppMaker, assert_problem
from testkit.fakes import FakeModel
from testkit.image_addresses import picture, shade_of, sign, sign_anything
from testkit.source_server import Page, SourceServer
from testkit.waiting import wait_until

FRESH, STALE = {"Cache-Control": "max-age=600"}, {"Cache-Control": "max-age=0"}
# Of the same little server.
OTHER_NAME = "127.1"


@pytest.fixture
def app(make_app: AppMaker, images: Settings) -> Flask:
    return make_app(images)


# --- freshness


def test_old_image_is_not_sent_as_a_fresh_one(
    client: FlaskClient,
    sources: SourceServer,
    fake_model: FakeModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though its successor, which is being computed, is fresh."""
    monkeypatch.setattr(sources_module, "PATIENCE_SECONDS", 0.2)
    sources.pages["/a"] = Page(picture(80), headers=STALE)
    path = sign(sources.url("/a"))
    assert shade_of(client.get(path)) == 80
    sources.pages["/a"] = Page(picture(90), headers=FRESH)
    fake_model.may_go_on.clear()
    client.get(path)
    wait_until(fake_model.started.is_set)
    for _ in range(2):
        old = client.get(path)
        assert shade_of(old) == 80
        assert old.headers["Cache-Control"] == "public, max-age=0"
        assert old.headers["X-Accel-Expires"] == "0"
    fake_model.may_go_on.set()
    wait_until(lambda: shade_of(client.get(path)) == 90)
    assert client.get(path).headers["Cache-Control"] == "public, max-age=600"


def test_confirmation_updates_what_is_known(
    client: FlaskClient, sources: SourceServer, later: Callable[[float], None]
) -> None:
    page = Page(picture(80), headers={"ETag": '"1"', "Cache-Control": "max-age=10"})
    sources.pages["/a"] = page
    path = sign(sources.url("/a"))
    assert client.get(path).headers["Cache-Control"] == "public, max-age=10"
    later(20)
    page.headers["Cache-Control"] = "max-age=100, stale-if-error=5"
    assert client.get(path).headers["Cache-Control"] == "public, max-age=100, stale-if-error=5"
    later(50)
    assert 50 <= int(client.get(path).headers["Age"]) < 100
    later(100)
    del page.headers["Cache-Control"]  # it may leave out what stays
    assert client.get(path).headers["Cache-Control"] == "public, max-age=100, stale-if-error=5"
    assert len(sources.asked("/a")) == 3
    assert [each.get("If-None-Match") for each in sources.asked("/a")] == [None, '"1"', '"1"']


@pytest.mark.parametrize(
    ("cache_control", "age", "status"),
    [
        ("max-age=100", 10**6, 200),
        ("max-age=100, stale-if-error=600", 690, 200),
        ("max-age=100, stale-if-error=600", 710, 502),
        ("max-age=100, stale-while-revalidate=600", 710, 502),
        ("s-maxage=100", 110, 502),
        ("s-maxage=100, stale-if-error=600", 110, 200),
        ("max-age=100, must-revalidate", 110, 502),
        ('max-age=100, no-cache="set-cookie"', 110, 200),
    ],
)
def test_source_says_for_how_long_old_images_may_be_used(
    client: FlaskClient,
    sources: SourceServer,
    later: Callable[[float], None],
    cache_control: str,
    age: float,
    status: int,
) -> None:
    sources.pages["/a"] = Page(picture(80), headers={"Cache-Control": cache_control})
    path = sign(sources.url("/a"))
    assert shade_of(client.get(path)) == 80
    later(80)
    assert shade_of(client.get(path)) == 80
    sources.is_down = True
    later(age - 80)
    assert client.get(path).status_code == status
    assert len(sources.asked("/a")) == 2


def test_clock_that_is_set_back_makes_the_source_be_asked(
    client: FlaskClient, sources: SourceServer, later: Callable[[float], None]
) -> None:
    sources.pages["/a"] = Page(picture(80), headers=FRESH)
    path = sign(sources.url("/a"))
    assert shade_of(client.get(path)) == 80
    later(-3600)
    sources.pages["/a"] = Page(picture(90), headers=FRESH)
    assert shade_of(client.get(path)) == 90
    response = client.get(path)
    assert shade_of(response) == 90
    assert int(response.headers["Age"]) < 600
    assert len(sources.asked("/a")) == 2


def test_redirect_counts_for_freshness(client: FlaskClient, sources: SourceServer) -> None:
    sources.pages["/a"] = Page(b"", 302, {"Location": "/1", "Cache-Control": "no-cache"})
    sources.pages["/1"] = Page(picture(80), headers={"ETag": '"x"', **FRESH})
    sources.pages["/2"] = Page(picture(90), headers={"ETag": '"x"', **FRESH})
    path = sign(sources.url("/a"))
    for _ in range(2):
        assert shade_of(client.get(path)) == 80
    sources.pages["/a"].headers["Location"] = "/2"
    assert shade_of(client.get(path)) == 90
    assert [each.get("If-None-Match") for each in sources.asked("/1")] == [None, '"x"']


def test_spellings_of_an_address_are_one_source(client: FlaskClient, sources: SourceServer) -> None:
    sources.pages["/a%20b"] = Page(picture(80), headers=FRESH)
    port = sources.port
    for url in (f"http://127.0.0.1:{port}/a b", f"HTTP://127.0.0.1:{port}/a%20b#part"):
        assert shade_of(client.get(sign(url))) == 80
    assert len(sources.requests) == 1


def test_strange_headers_leave_little_behind(
    client: FlaskClient, app: Flask, sources: SourceServer
) -> None:
    pages = {
        "ETag": '"' + "x" * 30_000 + '"',
        "Last-Modified": "Sun, 09 Sep 2001 01:46:40 GMT" + "x" * 20_000,
        "Cache-Control": "max-age=" + "9" * 5_000 + ", x=" + "\xff\x01" * 10_000,
        "Expires": "\xe9" * 5_000,
        "Vary": "x" * 5_000,
    }
    sources.pages["/a"] = Page(picture(80), headers=pages)
    response = client.get(sign(sources.url("/a")))
    assert shade_of(response) == 80
    assert response.headers["Cache-Control"] == f"public, max-age={2**31}"
    database = app.extensions["runner"].jobs.database
    ((*row,),) = database.execute("SELECT * FROM sources")
    assert sum(len(str(each)) for each in row) < 400
    assert all(str(each).isascii() for each in row)


@pytest.mark.parametrize("source", ["javascript:alert(1)", "file:///etc/passwd", "//a.example/"])
def test_client_is_not_sent_to_what_is_not_on_the_web(client: FlaskClient, source: str) -> None:
    response = client.get(sign_anything(source, "scale:2,fallback:source"))
    assert_problem(response, 403, "source_refused")
    assert "Location" not in response.headers


# --- records


def record(key: str, age: float) -> SourceRecord:
    freshness = Freshness(time.time() - age, 60.0)
    return SourceRecord(key, None, False, Validators("", '"1"'), freshness)


def test_answer_that_was_asked_for_earlier_does_not_replace_a_later_one(app: Flask) -> None:
    """Another machine may have asked since, and may have been answered sooner."""
    database = app.extensions["runner"].jobs.database
    mine, other = SourceRecords(database), SourceRecords(database)
    source = "http://a.example/"

    def key() -> str:
        found = other.find(source)
        assert found is not None
        return found.key

    mine.save(source, record("first", age=90))
    other.save(source, record("second", age=50))
    mine.save(source, record("late", age=70))
    assert key() == "second"
    mine.save(source, record("third", age=30))
    assert key() == "third"
    # The database's clock was set back: the last one counts.
    database.execute("UPDATE sources SET validated = validated + 3600")
    found = mine.find(source)
    assert found is not None
    assert not found.freshness.is_fresh(time.time())
    mine.save(source, record("fourth", age=20))
    assert key() == "fourth"


def test_machines_whose_clocks_differ_agree_how_old_an_image_is(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, clock = SourceRecords(app.extensions["runner"].jobs.database), time.time
    ages = []
    for writer, reader in ((0, 300), (300, -300), (-3600, 0)):
        monkeypatch.setattr(time, "time", lambda off=writer: clock() + off)
        records.save("http://a.example/", record("key", age=30))
        monkeypatch.setattr(time, "time", lambda off=reader: clock() + off)
        found = records.find("http://a.example/")
        assert found is not None
        ages.append(found.freshness.age(time.time()))
        assert found.freshness.is_fresh(time.time())
    assert all(30 <= round(age, 1) < 60 for age in ages)


def test_old_records_are_purged(app: Flask) -> None:
    records = SourceRecords(app.extensions["runner"].jobs.database)
    records.save("http://a.example/old", record("key", age=1000))
    records.save("http://a.example/new", record("key", age=500))
    records.purge(900)
    assert records.find("http://a.example/old") is None
    assert records.find("http://a.example/new") is not None
