"""Jobs that are withdrawn, and clients that leave, with the fake model."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest
from flask.testing import FlaskClient

from superres.errors import ClientLeft
from superres.service.runner import Runner
from superres.service.upload import Upload
from superres.settings import Settings
from superres.store.result_name import generate_file_hash
from testkit.app_client import AppMaker, upload
from testkit.fakes import FakeModel
from testkit.job_client import (
    noise,
    open_rows,
    path_of,
    picture,
    send,
    spooled,
    wait_for,
)
from testkit.pictures import PNG, make_upload, read
from testkit.waiting import WAIT_SECONDS, wait_until

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
        assert read(waiting.result(WAIT_SECONDS))


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
            assert read(staying.result(WAIT_SECONDS))
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
        assert read(second.result(WAIT_SECONDS))


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
        assert read(first.result(WAIT_SECONDS))


def test_long_polls_do_not_keep_uploads_from_waiting(
    make_app: AppMaker, settings: Settings
) -> None:
    app = make_app(replace(settings, max_waiting_requests=2))
    with app.extensions["runner"].scheduler.long_poll() as has_slot:
        assert has_slot
        assert upload(app.test_client()).status_code == 200
