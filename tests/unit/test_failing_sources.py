"""Sources that hang or fail: others go on, and they are not asked for each request."""

import threading
from collections.abc import Callable
from dataclasses import replace

import limits
import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse
from werkzeug.wrappers import Request

from superres.errors import Busy, ClientLeft, SourceNotFound
from superres.service import arrivals, recent_failures, renewals
from superres.service import sources as sources_module
from superres.service.places import Places
from superres.service.recent_failures import RecentFailures
from superres.settings import Settings
from superres.web import image_routes
from testkit.app_client import AppMaker, assert_problem
from testkit.fakes import FakeModel
from testkit.image_addresses import picture, shade_of, sign
from testkit.source_server import Page, SourceServer
from testkit.waiting import wait_until

FRESH, STALE = {"Cache-Control": "max-age=600"}, {"Cache-Control": "max-age=0"}
# Of the same little server.
OTHER_NAME = "127.1"


@pytest.fixture
def app(make_app: AppMaker, images: Settings) -> Flask:
    return make_app(images)


class Background:
    """Requests in threads of their own."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._threads: list[threading.Thread] = []
        self.answers: list[TestResponse] = []

    def get(self, path: str, client: str = "") -> None:
        def run() -> None:
            answer = self._app.test_client().get(path, headers={"User-Agent": client})
            self.answers.append(answer)

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()


@pytest.fixture
def background(app: Flask) -> Background:
    return Background(app)


# --- those that hang


def test_source_that_hangs_does_not_hold_up_other_hosts(
    monkeypatch: pytest.MonkeyPatch, make_app: AppMaker, images: Settings, sources: SourceServer
) -> None:
    monkeypatch.setattr(arrivals, "FETCHES_AT_ONCE", 4)
    monkeypatch.setattr(arrivals, "FETCHES_OF_ONE", 3)
    app, may_end = make_app(images), threading.Event()
    background = Background(app)
    try:
        for number in range(10):
            sources.pages[f"/{number}"] = Page(picture(80), headers=FRESH, before=may_end.wait)
            background.get(sign(sources.url(f"/{number}")))
        wait_until(lambda: len(sources.requests) == 3)
        sources.pages["/other"] = Page(picture(90), headers=FRESH)
        assert shade_of(app.test_client().get(sign(sources.url("/other", OTHER_NAME)))) == 90
        assert len(sources.requests) == 4
    finally:
        may_end.set()
        background.join()
    assert [shade_of(each) for each in background.answers] == [80] * 10


def test_clients_of_a_source_that_hangs_leave_places_to_others(
    monkeypatch: pytest.MonkeyPatch, make_app: AppMaker, images: Settings, sources: SourceServer
) -> None:
    monkeypatch.setattr(sources_module, "SOURCE_REQUESTS_AT_ONCE", 4)
    monkeypatch.setattr(sources_module, "REQUESTS_OF_ONE", 3)
    app, may_end = make_app(images), threading.Event()
    background = Background(app)
    sources.pages["/a"] = Page(picture(80), headers=FRESH, before=may_end.wait)
    sources.pages["/b"] = Page(picture(90), headers=FRESH)
    try:
        for _ in range(10):
            background.get(sign(sources.url("/a")))
        wait_until(lambda: len(background.answers) == 7)
        for answer in background.answers:
            assert_problem(answer, 503, "busy")
            assert answer.headers["Retry-After"] == "5"
        assert shade_of(app.test_client().get(sign(sources.url("/b", OTHER_NAME)))) == 90
    finally:
        may_end.set()
        background.join()
    assert [shade_of(each) for each in background.answers[7:]] == [80] * 3
    assert len(sources.asked("/a")) == 1


def test_old_image_is_sent_at_once_if_too_many_wait_for_a_new_one(
    monkeypatch: pytest.MonkeyPatch, make_app: AppMaker, images: Settings, sources: SourceServer
) -> None:
    monkeypatch.setattr(sources_module, "SOURCE_REQUESTS_AT_ONCE", 1)
    monkeypatch.setattr(sources_module, "REQUESTS_OF_ONE", 1)
    monkeypatch.setattr(sources_module, "PATIENCE_SECONDS", 60.0)
    app, may_end = make_app(images), threading.Event()
    client, background = app.test_client(), Background(app)
    path = sign(sources.url("/a"))
    sources.pages["/a"] = Page(picture(80), headers=STALE)
    assert shade_of(client.get(path)) == 80
    sources.pages["/a"] = Page(picture(90), headers=STALE, before=may_end.wait)
    try:
        for _ in range(2):  # one of them takes the place
            background.get(path)
        wait_until(lambda: len(background.answers) == 1)
        assert shade_of(client.get(path)) == 80
        assert client.get(sign(sources.url("/a"), falls_back=True, width="48")).status_code == 302
        assert len(background.answers) == 1
    finally:
        may_end.set()
        background.join()
    assert [shade_of(each) for each in background.answers] == [80, 90]


def test_half_of_those_who_wait_for_results_are_uploads(
    make_app: AppMaker, images: Settings, sources: SourceServer, fake_model: FakeModel
) -> None:
    app = make_app(replace(images, max_waiting_requests=4))
    scheduler, background = app.extensions["runner"].scheduler, Background(app)
    fake_model.may_go_on.clear()
    for number in range(6):
        sources.pages[f"/{number}"] = Page(picture(80 + number), headers=FRESH)
        background.get(sign(sources.url(f"/{number}")))
    wait_until(lambda: len(sources.requests) == 6 and scheduler.waiting_requests == 2)
    fake_model.may_go_on.set()
    background.join()
    assert sorted(shade_of(each) for each in background.answers) == [*range(80, 86)]


def test_image_that_gets_no_turn_to_be_computed_is_told_so(
    make_app: AppMaker, images: Settings, sources: SourceServer, fake_model: FakeModel
) -> None:
    app = make_app(replace(images, max_waiting_requests=2, max_sync_seconds=1))
    scheduler, background = app.extensions["runner"].scheduler, Background(app)
    for name in ("a", "b"):
        sources.pages[f"/{name}"] = Page(picture(ord(name)), headers=FRESH)
    fake_model.may_go_on.clear()
    background.get(sign(sources.url("/a")))
    wait_until(lambda: scheduler.waiting_requests == 1)
    response = app.test_client().get(sign(sources.url("/b")))
    assert_problem(response, 503, "busy")
    assert "are being computed" in response.get_json()["error"]
    fake_model.may_go_on.set()
    background.join()


def test_client_that_leaves_before_its_turn_gives_up_its_place(
    monkeypatch: pytest.MonkeyPatch, make_app: AppMaker, images: Settings, sources: SourceServer
) -> None:
    monkeypatch.setattr(arrivals, "FETCHES_OF_ONE", 1)
    monkeypatch.setattr(arrivals, "FETCH_SECONDS", 3600.0)
    polled: set[str] = set()
    gone: set[str] = set()

    def has_left(request: Request) -> bool:
        polled.add(request.user_agent.string)
        return request.user_agent.string in gone

    monkeypatch.setattr(image_routes, "has_left", has_left)
    app, may_end = make_app(images), threading.Event()
    background = Background(app)
    for name in ("a", "b", "c"):
        sources.pages[f"/{name}"] = Page(picture(80), headers=FRESH, before=may_end.wait)
    try:
        background.get(sign(sources.url("/a")))
        wait_until(lambda: len(sources.requests) == 1)
        background.get(sign(sources.url("/b")), "b")
        background.get(sign(sources.url("/c")), "c")
        wait_until(lambda: polled >= {"b", "c"})
        background.get(sign(sources.url("/c")), "other c")
        wait_until(lambda: "other c" in polled)
        gone |= {"b", "c"}
        wait_until(lambda: len(background.answers) == 1)
        assert_problem(background.answers[0], 408, "client_left")
    finally:
        may_end.set()
        background.join()
    # The one who was to fetch it for both has done so.
    assert len([each for each in background.answers if each.status_code == 200]) >= 2
    assert [path for path, _ in sources.requests] == ["/a", "/c"]


def test_places_are_given_back_and_waited_for() -> None:
    places = Places(2, 1)
    with places.hold("a"):
        assert not places.take("a")
        with places.hold("b"):
            assert not places.take("c")
            with pytest.raises(Busy), places.hold("a", 0.01):
                pass
            with pytest.raises(ClientLeft):
                places.take("a", 60, lambda: True)
        assert places.take("c")
        places.give_back("c")
    taken: list[bool] = []
    with places.hold("a"):
        waiting = threading.Thread(target=lambda: taken.append(places.take("a", 60)))
        waiting.start()
    waiting.join()
    assert taken == [True]
    assert not places.take("a")


def test_thread_that_cannot_start_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    tried = renewals.Renewals()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        for _ in range(renewals.RENEWALS_OF_ONE + 1):
            with pytest.raises(RuntimeError):
                tried.start("result", "host", lambda: None)
    started = tried.start("result", "host", lambda: None)
    assert started is not None
    assert started.ended.wait(60)


# --- those that fail


def test_failures_are_forgotten_after_some_seconds_and_are_not_too_many(
    later: Callable[[float], None],
) -> None:
    failures = RecentFailures()
    for number in range(recent_failures.MAX_FAILURES + 1):
        failures.note(str(number), "host", SourceNotFound("gone"))
    assert failures.find("0") is None
    assert isinstance(failures.find("1"), SourceNotFound)
    later(11)
    assert failures.find("1") is None
    failures.note("new", "host", SourceNotFound("gone"))
    assert len(failures._failures) == 1


def test_image_that_cannot_be_decoded_is_not_fetched_again_at_once(
    client: FlaskClient, sources: SourceServer, later: Callable[[float], None]
) -> None:
    sources.pages["/a"] = Page(picture(80)[:-30], headers=FRESH)
    for _ in range(3):
        assert_problem(client.get(sign(sources.url("/a"))), 422, "undecodable_image")
    assert len(sources.asked("/a")) == 1
    later(60)
    assert_problem(client.get(sign(sources.url("/a"))), 422, "undecodable_image")
    assert len(sources.asked("/a")) == 2


def test_source_of_what_cannot_be_computed_is_not_fetched_for_each_request(
    make_app: AppMaker, images: Settings, sources: SourceServer
) -> None:
    limited = replace(images, rate_limit_image_pixels=limits.parse("1/hour"), max_output_pixels=900)
    client = make_app(limited).test_client()
    sources.pages["/a"] = Page(picture(80), headers=FRESH)
    sources.pages["/b"] = Page(picture(90), headers=FRESH)
    for _ in range(3):
        large = client.get(sign(sources.url("/a"), width="72"))
        assert_problem(large, 422, "too_many_pixels")
    assert len(sources.asked("/a")) == 1
    assert client.get(sign(sources.url("/a"))).status_code == 200  # others are possible
    for _ in range(3):
        refused = client.get(sign(sources.url("/b")))
        assert_problem(refused, 429, "rate_limited")
        assert "Retry-After" in refused.headers
    assert len(sources.asked("/b")) == 1


def test_log_says_why_clients_are_sent_to_the_source(
    client: FlaskClient, sources: SourceServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "superres.service.recent_failures")
    sources.pages["/cut"] = Page(picture(80)[:-30], headers=FRESH)
    for _ in range(3):
        for name in ("/none?token=secret", "/cut"):
            assert client.get(sign(sources.url(name), falls_back=True)).status_code == 302
    missing, cut = (record.getMessage() for record in caplog.records)
    assert missing == "no image of 127.0.0.1: source_not_found: The source does not exist."
    assert cut.startswith("no image of 127.0.0.1: undecodable_image: ")


def test_client_that_leaves_is_no_failure(
    client: FlaskClient,
    sources: SourceServer,
    fake_model: FakeModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sources.pages["/a"] = Page(picture(80), headers=FRESH)
    path = sign(sources.url("/a"))
    with monkeypatch.context() as patch:
        patch.setattr(image_routes, "has_left", lambda _request: fake_model.started.is_set())
        fake_model.may_go_on.clear()
        assert_problem(client.get(path), 408, "client_left")
    fake_model.may_go_on.set()
    assert shade_of(client.get(path)) == 80


def test_dead_source_starts_no_thread_for_each_request(
    client: FlaskClient, sources: SourceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources.pages["/a"] = Page(picture(80), headers=STALE)
    path = sign(sources.url("/a"))
    assert shade_of(client.get(path)) == 80
    sources.is_down = True
    assert shade_of(client.get(path)) == 80
    monkeypatch.setattr(renewals.Renewals, "start", None)
    assert shade_of(client.get(path)) == 80
    assert len(sources.asked("/a")) == 2
