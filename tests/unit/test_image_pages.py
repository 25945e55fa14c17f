"""Pages of many images by their addresses, all of one host, as their visitors open them."""

import threading

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from superres.errors import TooCostly
from superres.service import sources as sources_module
from superres.settings import Settings
from testkit.app_client import AppMaker
from testkit.fakes import FakeModel
from testkit.image_addresses import picture, sign
from testkit.source_server import Page, SourceServer
from testkit.waiting import wait_until

NUMBER, VISITORS = 30, 3
FRESH = {"Cache-Control": "max-age=600"}


@pytest.fixture
def app(make_app: AppMaker, images: Settings) -> Flask:
    return make_app(images)


def publish(sources: SourceServer, falls_back: bool = False) -> list[str]:
    """Put a page's images on their server; return their paths, enhanced."""
    names = [f"/{shade}.png" for shade in range(100, 100 + NUMBER)]
    for shade, name in enumerate(names, 100):
        sources.pages[name] = Page(picture(shade), headers=FRESH)
    return [sign(sources.url(name), falls_back=falls_back) for name in names]


def inferences(client: FlaskClient) -> int:
    number = client.get("/api/stats").get_json()["inferences"]
    assert isinstance(number, int)
    return number


def test_several_visitors_of_a_new_page_wait_for_its_images(
    app: Flask, client: FlaskClient, sources: SourceServer, fake_model: FakeModel
) -> None:
    paths = publish(sources)
    fake_model.may_go_on.clear()
    answers: list[TestResponse] = []
    threads = [
        threading.Thread(target=lambda path=path: answers.append(app.test_client().get(path)))
        for path in paths * VISITORS
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(sources.requests) == NUMBER)
    fake_model.may_go_on.set()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * NUMBER * VISITORS
    assert inferences(client) == NUMBER


def test_images_that_one_visitor_has_asked_for_are_made_for_the_next(
    client: FlaskClient,
    sources: SourceServer,
    fake_model: FakeModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources_module, "PATIENCE_SECONDS", 0.02)
    paths = publish(sources, falls_back=True)
    fake_model.may_go_on.clear()
    assert {client.get(path).status_code for path in paths} == {302}
    fake_model.may_go_on.set()
    wait_until(lambda: inferences(client) == NUMBER)
    wait_until(lambda: all(client.get(path).status_code == 200 for path in paths))
    assert len(sources.requests) == NUMBER


def test_network_runs_once_for_all_widths_of_what_no_request_could_wait_for(
    app: Flask, client: FlaskClient, sources: SourceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = app.extensions["runner"].scheduler
    admit = scheduler.admit

    def refuse_large(pixels: int) -> object:
        if pixels > 50:  # the network's 12 x 8; a result that is made from its PNG counts less
            raise TooCostly("The image alone would take longer than a request may wait.")
        return admit(pixels)

    monkeypatch.setattr(scheduler, "admit", refuse_large)
    sources.pages["/a.png"] = Page(picture(80), headers=FRESH)
    source = sources.url("/a.png")
    paths = [sign(source, falls_back=True, width=width) for width in ("36", "48", "60")]
    for path in paths:
        assert client.get(path).status_code == 302
    wait_until(lambda: all(client.get(path).status_code == 200 for path in paths))
    assert inferences(client) == 1
