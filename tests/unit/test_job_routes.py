"""Asynchronous requests with the fake model."""

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from superres.jobs.job_records import Claim
from superres.service.local_jobs import JOBS_FOR_BUSY_LANES
from superres.service.runner import Runner
from superres.settings import Settings
from superres.web import job_routes
from superres.web.job_routes import Preference, read_preference
from testkit.app_client import AppMaker, assert_problem, upload
from testkit.fakes import FakeModel
from testkit.job_client import (
    ASYNC,
    noise,
    open_rows,
    path_of,
    picture,
    send,
    spooled,
    status_of,
    wait_for,
)
from testkit.pictures import PNG, make_upload
from testkit.waiting import WAIT_SECONDS, wait_until


@pytest.mark.parametrize(
    ("header", "preference"),
    [
        ("", Preference()),
        ("respond-async", Preference(True)),
        ("Respond-Async, WAIT=10", Preference(True, 10)),
        ('wait="5"; foo=bar, return=minimal', Preference(False, 5)),
        ("wait=-5", Preference()),
        ("wait=1e9", Preference()),
        ("wait=3, wait=9, respond-async", Preference(True, 3)),
        ("handling=lenient", Preference()),
    ],
)
def test_prefer_is_read_as_rfc_7240_has_it(app: Flask, header: str, preference: Preference) -> None:
    with app.test_request_context(headers={"Prefer": header}) as context:
        assert read_preference(context.request) == preference


def test_asynchronous_upload_is_accepted_and_its_result_is_the_synchronous_one(
    client: FlaskClient, settings: Settings, fake_model: FakeModel
) -> None:
    fake_model.may_go_on.clear()
    accepted = send(client, PNG)
    assert accepted.status_code == 202
    assert accepted.headers["Preference-Applied"] == "respond-async"
    assert int(accepted.headers["Retry-After"]) >= 1
    assert accepted.headers["Cache-Control"] == "no-store"
    body = accepted.get_json()
    assert body["state"] in {"queued", "running"}
    assert body["result"] is body["problem"] is None
    path = path_of(accepted)
    assert body["status_url"] == accepted.headers["Location"]
    running = wait_for(client, path, "running")
    assert running["eta_seconds"] >= 0
    assert len(spooled(settings)) == 1
    fake_model.may_go_on.set()
    done = wait_for(client, path, "done")
    assert (done["progress"], done["eta_seconds"], done["position"]) == (1.0, 0, 0)
    result = client.get(done["result"].removeprefix("http://localhost"))
    hit = upload(client)
    assert (hit.headers["X-Cache-Hit"], hit.data) == ("true", result.data)
    wait_until(lambda: spooled(settings) == [])
    assert open_rows(settings) == []


def test_stored_result_is_answered_at_once(client: FlaskClient) -> None:
    upload(client)
    response = send(client, PNG)
    assert (response.status_code, response.headers["X-Cache-Hit"]) == (200, "true")
    assert "Preference-Applied" not in response.headers


def test_asynchronous_request_that_waits_gets_the_picture_or_a_ticket(
    client: FlaskClient, fake_model: FakeModel
) -> None:
    response = send(client, PNG, "respond-async, wait=10")
    assert (response.status_code, response.content_type) == (200, "image/png")
    assert response.headers["X-Cache-Hit"] == "false"
    fake_model.may_go_on.clear()
    response = send(client, picture(1), "respond-async, wait=1")
    assert response.status_code == 202
    assert response.headers["Preference-Applied"] == "respond-async, wait=1"
    fake_model.may_go_on.set()
    wait_for(client, path_of(response), "done")


def test_no_store_leaves_nothing_to_be_fetched_later(client: FlaskClient) -> None:
    response = upload(client, headers=ASYNC | {"Cache-Control": "no-store"})
    assert_problem(response, 400, "bad_request")


def test_equal_uploads_have_tickets_of_their_own_and_one_inference(
    client: FlaskClient, runner: Runner, fake_model: FakeModel
) -> None:
    fake_model.may_go_on.clear()
    paths = [path_of(send(client, PNG)) for _ in range(5)]
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(runner.enhance, make_upload(9)) for _ in range(3)]
        same = path_of(send(client, picture(9)))
        wait_until(lambda: runner.statistics()["waiting_requests"] == 3)
        fake_model.may_go_on.set()
        for future in waiting:
            future.result(WAIT_SECONDS).content.file.close()  # type: ignore[union-attr]
    assert len(set(paths)) == 5
    for path in [*paths, same]:
        wait_for(client, path, "done")
    assert runner.statistics()["inferences"] == 2


def test_progress_and_position_are_shown(
    client: FlaskClient, runner: Runner, fake_model: FakeModel
) -> None:
    fake_model.may_go_on.clear()
    paths = [path_of(send(client, noise(400, seed))) for seed in range(4)]
    wait_until(lambda: len(runner._local_jobs.claimed()) == 4)
    behind = [path_of(send(client, noise(400, seed))) for seed in range(4, 6)]
    positions = sorted(client.get(path).get_json()["position"] for path in behind)
    assert positions == [0, 1]
    ahead = [status_of(runner, path).pixels_ahead for path in (paths[0], *behind)]
    assert ahead[0] == 160_000
    assert sorted(ahead[1:]) == [800_000, 960_000]
    fake_model.may_go_on.set()
    done = wait_for(client, paths[0], "done")
    assert done["tiles_done"] == done["tiles_total"] > 4
    for path in behind:
        wait_for(client, path, "done")


def test_small_job_begins_beside_large_ones(
    client: FlaskClient, runner: Runner, fake_model: FakeModel
) -> None:
    fake_model.may_go_on.clear()
    large = [path_of(send(client, noise(400, seed))) for seed in range(6)]
    wait_until(lambda: len(runner._local_jobs.claimed()) == 4)
    small = path_of(send(client, picture(1)))
    wait_until(lambda: status_of(runner, small).state == "running")
    states = [status_of(runner, path).state for path in large]
    assert (states.count("running"), states.count("queued")) == (4, 2)
    fake_model.may_go_on.set()
    for path in (*large, small):
        wait_for(client, path, "done")


def test_job_whose_upload_is_slow_to_open_holds_up_no_other(
    client: FlaskClient, app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner: Runner = app.extensions["runner"]
    may_open = threading.Event()
    open_upload = runner._local_jobs._uploads.open

    def open_slowly(claim: Claim, *others: Any) -> Any:
        if claim.pixels == 400:
            assert may_open.wait(30)
        return open_upload(claim, *others)

    monkeypatch.setattr(runner._local_jobs._uploads, "open", open_slowly)
    slow = [path_of(send(client, picture(shade))) for shade in range(6)]
    wait_for(client, slow[0], "running")
    wait_for(client, path_of(send(client, picture(9, 10))), "done")
    # What is being opened counts among what is claimed: others are left to other processes.
    states = Counter(client.get(path).get_json()["state"] for path in slow)
    assert states == {"running": JOBS_FOR_BUSY_LANES, "queued": 2}
    may_open.set()
    for path in slow:
        wait_for(client, path, "done")


def test_long_poll_answers_when_something_changes(
    client: FlaskClient,
    app: Flask,
    fake_model: FakeModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(job_routes, "MAX_LONG_POLL_SECONDS", 120)
    fake_model.may_go_on.clear()
    path = path_of(send(client, PNG))
    wait_for(client, path, "running")
    threading.Timer(0.5, fake_model.may_go_on.set).start()
    began = time.monotonic()
    response = client.get(path, headers={"Prefer": "wait=120"})
    assert time.monotonic() - began < 120, "it waited until the end"
    if response.get_json()["state"] == "running":  # the tile was seen before the end
        assert response.get_json()["tiles_done"] == 1
        response = client.get(path, headers={"Prefer": "wait=120"})
    assert response.get_json()["state"] == "done"
    assert response.headers["Preference-Applied"] == "wait=120"


def test_long_poll_without_a_free_slot_is_answered_at_once(
    make_app: AppMaker,
    settings: Settings,
    fake_model: FakeModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(job_routes, "MAX_LONG_POLL_SECONDS", 120)
    app = make_app(replace(settings, max_waiting_requests=1))
    client = app.test_client()
    fake_model.may_go_on.clear()
    path = path_of(send(client, PNG))
    with app.extensions["runner"].scheduler.long_poll() as has_slot:
        assert has_slot
        began = time.monotonic()
        status = client.get(path, headers={"Prefer": "wait=120"}).get_json()
        assert time.monotonic() - began < 120, "it waited"
    assert status["state"] in {"queued", "running"}
    fake_model.may_go_on.set()
    wait_for(client, path, "done")


def test_unknown_ticket_is_not_found(client: FlaskClient) -> None:
    for ticket in ("unknown", "a" * 300, "%00"):
        assert_problem(client.get(f"/api/jobs/{ticket}"), 404, "job_not_found")
        assert_problem(client.delete(f"/api/jobs/{ticket}"), 404, "job_not_found")
