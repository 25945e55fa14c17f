"""Jobs that fail, find no space, or are handed over, with the fake model."""

import logging
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from unittest.mock import Mock

import pytest
from flask import Flask
from flask.testing import FlaskClient

from superres.engines.speed_meter import Speed
from superres.images.options import DEFAULT_OPTIONS
from superres.server.gunicorn_worker import Worker
from superres.service.job import Job, Outcome
from superres.service.runner import Runner
from superres.service.scheduler import Place
from superres.settings import Settings
from superres.store import cache_limiter, doubts
from superres.store.result_name import generate_file_hash
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
from testkit.pictures import PNG
from testkit.waiting import WAIT_SECONDS, wait_until


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
    wait_until(lambda: spooled(settings) == [])


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


def test_request_that_comes_while_its_job_is_being_claimed_takes_the_claim(
    app: Flask, runner: Runner, fake_model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # While another job runs here, the leases of all of this process's claims are renewed.
    fake_model.may_go_on.clear()
    busy = path_of(send(app.test_client(), picture(1)))
    assert fake_model.started.wait(WAIT_SECONDS)
    enter = runner.scheduler.enter
    with ThreadPoolExecutor(1) as pool:
        answers: list[Future[int]] = []

        def be_overtaken(pixels: int) -> Place:
            answers.append(pool.submit(lambda: upload(app.test_client()).status_code))
            wait_until(lambda: len(runner._local_jobs) == 2)
            return enter(pixels)

        monkeypatch.setattr(runner.scheduler, "enter", be_overtaken)
        path = path_of(send(app.test_client(), PNG))
        try:
            wait_until(lambda: bool(answers) and not runner._local_jobs._uploads.fetching)
            wait_until(lambda: len(runner._local_jobs.claimed()) == 2)
        finally:
            fake_model.may_go_on.set()
        assert answers[0].result() == 200
        for ticket in (busy, path):
            wait_for(app.test_client(), ticket, "done")


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
    wait_until(lambda: spooled(settings) == [])


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
    monkeypatch.setattr(
        app.extensions["runner"].scheduler, "_measure_speed", lambda: Speed(1.0, 1.0)
    )
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


# --- a full spool


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
    wait_until(lambda: spooled(settings) == [])


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
