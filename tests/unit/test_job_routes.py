"""Asynchronous requests with the fake model."""

import logging
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from superres.errors import ClientLeft
from superres.images.options import DEFAULT_OPTIONS
from superres.jobs.job_records import Claim, JobStatus
from superres.server.gunicorn_worker import Worker
from superres.service.job import Job, Outcome
from superres.service.local_jobs import JOBS_FOR_BUSY_LANES
from superres.service.runner import Runner
from superres.service.upload import Upload
from superres.settings import Settings
from superres.store import cache_limiter, doubts
from superres.store.result_name import generate_file_hash
from superres.web import job_routes
from superres.web.job_routes import Preference, read_preference
from testkit.app_client import AppMaker, assert_problem, upload
from testkit.fakes import FakeModel
from testkit.pictures import PNG, encode, make_upload
from testkit.waiting import wait_until

ASYNC = {"Prefer": "respond-async"}
WAIT_SECONDS = 20


def picture(shade: int, side: int = 20) -> bytes:
    return encode(Image.new("RGB", (side, side), (shade, 50, 60)), "PNG")


def noise(side: int, seed: int = 1) -> bytes:
    """An image whose tiles all differ."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side // 20, side // 20, 3), np.uint8)
    return encode(Image.fromarray(pixels).resize((side, side)), "JPEG", quality=50)


def send(client: FlaskClient, content: bytes, prefer: str = "respond-async") -> TestResponse:
    return upload(client, content=content, headers={"Prefer": prefer})


def path_of(response: TestResponse) -> str:
    location = response.headers["Location"]
    assert location.startswith("http://localhost/api/jobs/")
    return location.removeprefix("http://localhost")


def wait_for(client: FlaskClient, path: str, *states: str) -> dict[str, Any]:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        status: dict[str, Any] = client.get(path).get_json()
        if status["state"] in states:
            return status
        time.sleep(0.02)
    raise TimeoutError(status)


def spooled(settings: Settings) -> list[str]:
    return sorted(path.name for path in (settings.cache_dir / "spool").glob("*"))


def status_of(runner: Runner, path: str) -> JobStatus:
    status = runner.jobs.find(path.rsplit("/", 1)[1])
    assert status is not None
    return status


def open_rows(settings: Settings) -> list[Any]:
    with sqlite3.connect(settings.state_dir / "jobs.sqlite3") as connection:
        rows = connection.execute("SELECT name FROM jobs WHERE state IN ('queued', 'running')")
        found = rows.fetchall()
    connection.close()
    return found


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


# --- withdrawal


def test_withdrawn_job_stops_within_a_tile_a_lane(
    client: FlaskClient, runner: Runner, settings: Settings, fake_model: FakeModel
) -> None:
    fake_model.may_go_on.clear()
    path = path_of(send(client, noise(1200)))
    assert fake_model.started.wait(WAIT_SECONDS)
    fake_model.tiles = 0
    assert client.delete(path).status_code == 204
    assert client.get(path).get_json()["state"] == "cancelled"
    fake_model.may_go_on.set()
    wait_until(lambda: runner.statistics()["queue_length"] == 0)
    assert fake_model.tiles <= 2
    assert (spooled(settings), open_rows(settings)) == ([], [])
    assert client.delete(path).status_code == 204


def test_withdrawn_job_goes_on_for_others(client: FlaskClient, fake_model: FakeModel) -> None:
    fake_model.may_go_on.clear()
    first, second = (path_of(send(client, PNG)) for _ in range(2))
    client.delete(first)
    fake_model.may_go_on.set()
    assert wait_for(client, second, "done")["result"] is not None
    assert client.get(first).get_json()["state"] == "cancelled"


def test_withdrawn_job_that_a_request_waits_for_goes_on(
    client: FlaskClient, runner: Runner, fake_model: FakeModel
) -> None:
    fake_model.may_go_on.clear()
    path = path_of(send(client, picture(9)))
    wait_for(client, path, "running")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(runner.enhance, make_upload(9))
        wait_until(lambda: runner.statistics()["waiting_requests"] == 1)
        time.sleep(0.2)
        client.delete(path)
        fake_model.may_go_on.set()
        waiting.result(WAIT_SECONDS).content.file.close()  # type: ignore[union-attr]


def test_cancelled_job_is_made_anew_by_the_next_upload(
    client: FlaskClient, fake_model: FakeModel
) -> None:
    fake_model.may_go_on.clear()
    client.delete(path_of(send(client, PNG)))
    path = path_of(send(client, PNG))
    fake_model.may_go_on.set()
    wait_for(client, path, "done")


# --- clients that leave


class Leaver:
    """Reports that the client has left, once told so."""

    def __init__(self) -> None:
        self.left = threading.Event()

    def __call__(self) -> bool:
        return self.left.is_set()


def test_client_that_leaves_ends_its_job(
    runner: Runner, settings: Settings, fake_model: FakeModel
) -> None:
    leaver = Leaver()
    fake_model.may_go_on.clear()
    with ThreadPoolExecutor(1) as pool:
        content = noise(600)
        large = Upload(BytesIO(content), generate_file_hash(content), "photo")
        waiting = pool.submit(runner.enhance, large, has_left=leaver)
        assert fake_model.started.wait(WAIT_SECONDS)
        leaver.left.set()
        with pytest.raises(ClientLeft):
            waiting.result(WAIT_SECONDS)
    assert open_rows(settings) == []
    fake_model.may_go_on.set()
    wait_until(lambda: runner.statistics()["queue_pixels"] == 0)
    assert runner.statistics()["inferences"] == 0


@pytest.mark.parametrize("other_is_asynchronous", [False, True])
def test_client_that_leaves_ends_no_job_that_another_wants(
    client: FlaskClient, runner: Runner, fake_model: FakeModel, other_is_asynchronous: bool
) -> None:
    leaver = Leaver()
    fake_model.may_go_on.clear()
    with ThreadPoolExecutor(2) as pool:
        leaving = pool.submit(runner.enhance, make_upload(1), has_left=leaver)
        assert fake_model.started.wait(WAIT_SECONDS)
        path = ""
        if other_is_asynchronous:
            path = path_of(send(client, picture(1)))
        else:
            staying = pool.submit(runner.enhance, make_upload(1))
            wait_until(lambda: runner.statistics()["waiting_requests"] == 2)
        leaver.left.set()
        with pytest.raises(ClientLeft):
            leaving.result(WAIT_SECONDS)
        fake_model.may_go_on.set()
        if other_is_asynchronous:
            wait_for(client, path, "done")
        else:
            staying.result(WAIT_SECONDS).content.file.close()  # type: ignore[union-attr]
    assert runner.statistics()["inferences"] == 1


def test_next_client_gets_the_picture_of_one_who_left_while_it_was_encoded(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoding, go_on = threading.Event(), threading.Event()
    encode = runner.resources.codec.encode

    def encode_slowly(*arguments: Any) -> memoryview:
        encoding.set()
        assert go_on.wait(WAIT_SECONDS)
        return encode(*arguments)

    monkeypatch.setattr(runner.resources.codec, "encode", encode_slowly)
    leaver = Leaver()
    with ThreadPoolExecutor(2) as pool:
        leaving = pool.submit(runner.enhance, make_upload(1), has_left=leaver)
        assert encoding.wait(WAIT_SECONDS)
        leaver.left.set()
        with pytest.raises(ClientLeft):
            leaving.result(WAIT_SECONDS)
        second = pool.submit(runner.enhance, make_upload(1))
        wait_until(lambda: runner.statistics()["waiting_requests"] == 1)
        time.sleep(1)  # the keeper handles the second one's row
        go_on.set()
        second.result(WAIT_SECONDS).content.file.close()  # type: ignore[union-attr]


def test_pictures_that_wait_for_memory_leave_the_queue_with_their_clients(
    make_app: AppMaker, settings: Settings, fake_model: FakeModel
) -> None:
    runner: Runner = make_app(replace(settings, max_decoded_bytes=20 * 1024**2)).extensions[
        "runner"
    ]
    fake_model.may_go_on.clear()
    leaver = Leaver()
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(runner.enhance, make_upload(0))
        assert fake_model.started.wait(WAIT_SECONDS)
        leaving = [
            pool.submit(runner.enhance, make_upload(shade), has_left=leaver)
            for shade in range(1, 9)
        ]
        wait_until(lambda: runner.statistics()["queue_pixels"] == 9 * 400)
        leaver.left.set()
        for future in leaving:
            with pytest.raises(ClientLeft):
                future.result(WAIT_SECONDS)
        wait_until(lambda: runner.statistics()["queue_pixels"] == 400)
        fake_model.may_go_on.set()
        first.result(WAIT_SECONDS).content.file.close()  # type: ignore[union-attr]


def test_long_polls_do_not_keep_uploads_from_waiting(
    make_app: AppMaker, settings: Settings
) -> None:
    app = make_app(replace(settings, max_waiting_requests=2))
    with app.extensions["runner"].scheduler.long_poll() as has_slot:
        assert has_slot
        assert upload(app.test_client()).status_code == 200


# --- failures


def test_failed_job_tells_its_problem(
    client: FlaskClient, fake_model: FakeModel, settings: Settings
) -> None:
    fake_model.error = RuntimeError("secret")
    failed = wait_for(client, path_of(send(client, PNG)), "failed")
    assert failed["problem"]["code"] == "internal_error"
    assert "secret" not in str(failed)
    assert failed["result"] is None
    fake_model.error = None
    assert upload(client).status_code == 200
    assert spooled(settings) == []


def test_upload_sent_again_as_soon_as_its_job_has_failed_gets_its_result(
    client: FlaskClient, runner: Runner, fake_model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = runner._local_jobs._claims
    record_end = claims.record_end
    answers: list[int] = []

    def record_and_send_again(job: Job, outcome: Outcome) -> None:
        record_end(job, outcome)
        monkeypatch.undo()
        fake_model.error = None
        answers.append(upload(client).status_code)

    monkeypatch.setattr(claims, "record_end", record_and_send_again)
    fake_model.error = RuntimeError("once")
    send(client, PNG)
    wait_until(lambda: bool(answers))
    assert answers == [200]


def test_damaged_picture_is_refused_at_once_where_its_header_shows_it(client: FlaskClient) -> None:
    assert_problem(send(client, PNG[:20]), 422, "undecodable_image")


def test_upload_that_vanished_from_the_spool_is_a_failed_job(
    client: FlaskClient,
    runner: Runner,
    settings: Settings,
    fake_model: FakeModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doubts, "DOUBT_SECONDS", 0.0)
    fake_model.may_go_on.clear()
    busy = [path_of(send(client, picture(shade))) for shade in range(4)]
    wait_until(lambda: len(runner._local_jobs.claimed()) == 4)
    path = path_of(send(client, picture(9)))
    rows = runner.jobs.database.execute(
        "SELECT spool FROM jobs WHERE name = ?", [status_of(runner, path).name]
    )
    (settings.cache_dir / "spool" / rows[0][0]).unlink()
    fake_model.may_go_on.set()
    assert wait_for(client, path, "failed")["problem"]["code"] == "upload_lost"
    for other in busy:
        wait_for(client, other, "done")


def test_result_that_was_cleaned_up_is_null(client: FlaskClient, settings: Settings) -> None:
    path = path_of(send(client, PNG))
    wait_for(client, path, "done")
    for stored in settings.cache_dir.glob("*.png"):
        stored.unlink()
    status = client.get(path).get_json()
    assert (status["state"], status["result"]) == ("done", None)


def test_full_asynchronous_queue_is_busy(
    make_app: AppMaker, settings: Settings, fake_model: FakeModel
) -> None:
    client = make_app(replace(settings, max_queue_pixels=1000)).test_client()
    fake_model.may_go_on.clear()
    first = path_of(send(client, picture(1, side=30)))
    response = send(client, picture(2, side=30))
    assert_problem(response, 503, "busy")
    assert int(response.headers["Retry-After"]) >= 1
    assert send(client, picture(1, side=30)).status_code == 202  # the same upload needs no space
    fake_model.may_go_on.set()
    wait_for(client, first, "done")
    assert len(spooled(settings)) == 0


def test_picture_that_is_sent_too_often_is_busy_and_its_upload_is_not_kept(
    client: FlaskClient, settings: Settings, fake_model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("superres.jobs.jobs.MAX_TICKETS_OF_JOB", 3)
    fake_model.may_go_on.clear()
    paths = [path_of(send(client, PNG)) for _ in range(3)]
    response = send(client, PNG)
    assert_problem(response, 503, "busy")
    assert int(response.headers["Retry-After"]) >= 1
    assert len(spooled(settings)) == 1
    fake_model.may_go_on.set()
    for path in paths:
        wait_for(client, path, "done")


def test_picture_that_is_too_costly_to_wait_for_is_taken_asynchronously(
    make_app: AppMaker, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(replace(settings, max_sync_seconds=1))
    monkeypatch.setattr(app.extensions["runner"].scheduler, "_seconds_per_pixel", lambda: 1.0)
    client = app.test_client()
    response = upload(client)
    assert_problem(response, 422, "too_costly_sync")
    assert "Prefer: respond-async" in response.get_json()["error"]
    wait_for(client, path_of(send(client, PNG)), "done")


def test_without_a_database_requests_are_answered_and_nothing_is_promised(
    make_app: AppMaker, settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").write_text("a file where the folder belongs")
    client = make_app().test_client()
    with caplog.at_level(logging.ERROR):
        assert upload(client).status_code == 200
    assert upload(client).headers["X-Cache-Hit"] == "true"
    response = send(client, picture(5))
    assert_problem(response, 503, "jobs_unavailable")
    assert int(response.headers["Retry-After"]) >= 1
    assert_problem(client.get(f"/api/jobs/{'a' * 24}"), 503, "jobs_unavailable")
    assert client.get("/api/stats").get_json()["jobs_unavailable"] >= 1


def test_unwritable_spool_is_refused_and_loses_nothing(
    client: FlaskClient, settings: Settings
) -> None:
    settings.cache_dir.mkdir(parents=True, exist_ok=True)
    (settings.cache_dir / "spool").write_text("a file where the folder belongs")
    assert_problem(send(client, PNG), 503, "not_stored")
    assert open_rows(settings) == []
    assert upload(client).status_code == 200


def padded(shade: int, side: int = 1) -> bytes:
    """A small image of 200 kB, padded with bytes that decoders ignore."""
    return picture(shade, side) + bytes(200_000)


@pytest.fixture
def full_client(
    make_app: AppMaker, settings: Settings, fake_model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FlaskClient]:
    """A client of a service that computes nothing, with space for 2 MB of uploads."""
    fake_model.may_go_on.clear()
    app = make_app(replace(settings, spool_max_mb=2))
    monkeypatch.setattr(app.extensions["runner"]._local_jobs, "claimable_pixels", lambda: 0)
    yield app.test_client()
    fake_model.may_go_on.set()


def test_full_spool_is_busy_for_that_client_and_others_go_on(
    full_client: FlaskClient, settings: Settings, fake_model: FakeModel
) -> None:
    accepted = [send(full_client, padded(shade)) for shade in (1, 2)]
    assert [response.status_code for response in accepted] == [202, 202]
    refused = send(full_client, padded(3))
    assert_problem(refused, 503, "busy")
    assert int(refused.headers["Retry-After"]) >= 1
    assert len(spooled(settings)) == 2
    elsewhere = {"environ_base": {"REMOTE_ADDR": "192.0.2.7"}}
    response = full_client.post(
        "/api/enhance", data={"image": (BytesIO(padded(3)), "a.png")}, headers=ASYNC, **elsewhere
    )
    assert response.status_code == 202
    # A withdrawn job frees its space.
    full_client.delete(path_of(accepted[0]))
    assert send(full_client, padded(4)).status_code == 202
    # Waiting requests need none.
    fake_model.may_go_on.set()
    assert upload(full_client, content=padded(5)).status_code == 200
    assert send(full_client, padded(5)).headers["X-Cache-Hit"] == "true"


def test_joined_job_takes_no_room(full_client: FlaskClient, settings: Settings) -> None:
    for _ in range(8):
        assert send(full_client, padded(1)).status_code == 202
    assert len(spooled(settings)) == 1
    assert 200_000 <= full_client.get("/api/stats").get_json()["spool_bytes"] < 250_000


def test_upload_that_never_fits_is_too_large(full_client: FlaskClient) -> None:
    raw = {"Content-Type": "application/octet-stream"}
    answer = full_client.post("/api/enhance", data=padded(1) * 3, headers=ASYNC | raw)
    assert_problem(answer, 413, "too_large")


def test_result_that_may_not_be_kept_fails_a_job_at_once_and_is_sent_to_who_waits(
    client: FlaskClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_limiter, "MOST_WITH_SPARED", 0)
    content = padded(1)
    status = wait_for(client, path_of(send(client, content)), "failed")
    assert status["problem"]["code"] == "result_too_large"
    assert "respond-async" in status["problem"]["error"]
    assert upload(client, content=content).status_code == 200
    assert spooled(settings) == []


# --- releasing jobs


def test_stopping_process_hands_its_jobs_over(
    make_app: AppMaker, settings: Settings, fake_model: FakeModel
) -> None:
    first, second = make_app(), None
    fake_model.may_go_on.clear()
    path = path_of(send(first.test_client(), noise(600)))
    assert fake_model.started.wait(WAIT_SECONDS)
    first.extensions["runner"].stop()
    fake_model.may_go_on.set()
    second = make_app()
    status = wait_for(second.test_client(), path, "done")
    assert status["result"] is not None
    wait_until(lambda: spooled(settings) == [])


def test_worker_that_is_told_to_stop_drains_its_application(app: Flask) -> None:
    worker = Worker.__new__(Worker)  # without the sockets that its constructor needs
    worker.alive, worker.wsgi = True, app
    worker.method_queue = Mock()
    worker.handle_exit(signal.SIGTERM, None)
    assert app.extensions["runner"].is_draining
    assert not worker.alive


def test_draining_process_takes_no_queued_job(
    make_app: AppMaker, settings: Settings, fake_model: FakeModel
) -> None:
    app = make_app()
    app.extensions["runner"].begin_draining()
    path = path_of(send(app.test_client(), PNG))
    time.sleep(1)
    assert app.test_client().get(path).get_json()["state"] == "queued"
    assert_problem(app.test_client().get("/api/ready"), 503, "not_ready")


@pytest.mark.parametrize("was_done", [False, True])
def test_job_of_another_engine_is_computed_under_this_ones_name(
    client: FlaskClient, runner: Runner, was_done: bool
) -> None:
    if was_done:  # and its result has been evicted since
        assert (
            client.post("/api/enhance", data={"image": (BytesIO(PNG), "a.png")}).status_code == 200
        )
        assert runner.cache.remove(runner.result_name(generate_file_hash(PNG)))
    name = runner.result_name(generate_file_hash(PNG))
    key, variant, ending = name.split(".")
    other = f"{key}.{variant[::-1]}.{ending}"
    assert other != name
    spool = runner.spool.store(BytesIO(PNG), runner.jobs.table_id())
    ticket, _ = runner.jobs.submit(other, DEFAULT_OPTIONS.as_dict(), 200, spool)
    runner.keeper.wake()
    status = wait_for(client, f"/api/jobs/{ticket}", "done")
    assert status["result"].endswith(name)
    assert not runner.cache.contains(other)
    assert runner.cache.contains(name)
    wait_until(lambda: list((runner.cache.folder / "spool").iterdir()) == [])
