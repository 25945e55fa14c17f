"""A GPU that fails: its pictures are computed anew, by OpenCV and under OpenCV's names."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image

from superres.engines.batcher import Batcher
from superres.engines.engine import Engine
from superres.engines.model_loader import ModelLoader
from superres.engines.opencv_engine import OTHER_PROFILE
from superres.engines.upscaler import Upscaler
from superres.errors import ClientLeft, EngineLost
from superres.images.options import FAITHFUL, RESTORE, Options
from superres.images.picture import ImageHeader
from superres.service.charges import Charge, Reservation
from superres.service.job import Job
from superres.service.pipeline import Pipeline
from superres.service.runner import Runner
from superres.settings import Settings
from testkit.app_client import upload
from testkit.fakes import FakeDevice, FakeModel
from testkit.job_client import ASYNC, noise, open_rows, path_of, picture, send, spooled, wait_for
from testkit.pictures import make_upload, read
from testkit.waiting import wait_until

LANES = 8
# What `make_upload(7)` has, from OpenCV's stand-in and from the GPU's.
EXACT, FROM_GPU = [7, 50, 60], [248, 205, 195]


@pytest.fixture
def device() -> Iterator[FakeDevice]:
    made = FakeDevice()
    yield made
    made.may_go_on.set()


@pytest.fixture
def gpu_engine(device: FakeDevice, fake_model: FakeModel) -> Iterator[Engine]:
    batcher = Batcher(device)
    spare = Engine(fake_model.load, OTHER_PROFILE)
    profile = replace(OTHER_PROFILE, engine="torch", tile=64)
    yield Engine(lambda _: batcher, profile, time.perf_counter, LANES, spare)
    device.may_go_on.set()
    batcher.close()


@pytest.fixture
def fake_super_resolution(gpu_engine: Engine, tmp_path: Path) -> Iterator[Upscaler]:
    """The model of `runner` and `client`, on a GPU."""
    model_path = tmp_path / "fake.pb"
    model_path.write_bytes(b"fake model")
    model = Upscaler(model_path, gpu_engine)
    yield model
    model.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as threads:
        yield threads


def fail_from_now(device: FakeDevice) -> None:
    device.good_batches = len(device.batches)


def first_pixel(content: bytes) -> list[int]:
    pixels: list[int] = np.asarray(Image.open(BytesIO(content)))[0, 0].tolist()
    return pixels


def test_picture_whose_gpu_fails_has_opencvs_pixels_and_name(
    runner: Runner, device: FakeDevice, settings: Settings
) -> None:
    key = make_upload(7).key
    gpu_name = runner.result_name(key)
    fail_from_now(device)
    result = runner.enhance(make_upload(7))
    assert first_pixel(read(result)) == EXACT
    assert result.name == runner.result_name(key) != gpu_name
    assert runner.open_result(gpu_name) is None
    again = runner.enhance(make_upload(7))
    assert again.hit
    assert first_pixel(read(again)) == EXACT
    assert open_rows(settings) == []


def test_gpu_that_fails_within_a_picture_leaves_nothing_of_it(
    client: FlaskClient, device: FakeDevice
) -> None:
    device.good_batches = len(device.batches) + 1
    answer = upload(client, "photo.jpg", content=noise(600))
    assert answer.status_code == 200
    upscaled = np.asarray(Image.open(BytesIO(answer.data)))
    with Image.open(BytesIO(noise(600))) as original:
        expected = np.asarray(original).repeat(3, axis=0).repeat(3, axis=1)
    np.testing.assert_array_equal(upscaled, expected)


def test_results_that_the_gpu_made_before_stay(runner: Runner, device: FakeDevice) -> None:
    made = runner.enhance(make_upload(7))
    assert first_pixel(read(made)) == FROM_GPU
    fail_from_now(device)
    read(runner.enhance(make_upload(8)))
    kept = runner.open_result(made.name)
    assert kept is not None
    assert first_pixel(read(kept)) == FROM_GPU
    anew = runner.enhance(make_upload(7))
    assert not anew.hit
    assert first_pixel(read(anew)) == EXACT


def test_all_who_wait_get_their_results(
    runner: Runner, device: FakeDevice, pool: ThreadPoolExecutor
) -> None:
    device.may_go_on.clear()
    shades = [7, 7, 7, *range(20, 29)]
    uploads = [make_upload(shade) for shade in shades]
    waiting = [pool.submit(runner.enhance, each) for each in uploads]
    wait_until(lambda: runner.statistics()["waiting_requests"] == len(shades))
    wait_until(lambda: runner.statistics()["lanes_busy"] == LANES)
    device.good_batches = 0
    device.may_go_on.set()
    for shade, future in zip(shades, waiting, strict=True):
        assert first_pixel(read(future.result(60))) == [shade, 50, 60]
    assert all(each.file.closed for each in uploads)
    assert runner.statistics()["inferences"] == len(set(shades))


@pytest.mark.parametrize("scale", [3, 2])
def test_accepted_job_is_computed_anew(
    client: FlaskClient,
    runner: Runner,
    device: FakeDevice,
    settings: Settings,
    scale: int,
) -> None:
    fail_from_now(device)
    accepted = upload(client, content=picture(7), headers=ASYNC, scale=str(scale))
    status = wait_for(client, path_of(accepted), "done", "failed")
    assert status["state"] == "done"
    assert first_pixel(client.get(status["result"]).data) == EXACT
    assert status["result"].endswith(runner.result_name(make_upload(7).key, Options(scale=scale)))
    assert open_rows(settings) == []
    wait_until(lambda: spooled(settings) == [])
    attempts = runner.jobs.database.execute("SELECT attempts FROM jobs WHERE state = 'done'")
    assert attempts == [(1,)]  # it is not the job's fault


def test_accepted_job_that_a_request_waits_for_is_computed_once(
    client: FlaskClient, runner: Runner, device: FakeDevice, pool: ThreadPoolExecutor
) -> None:
    device.may_go_on.clear()
    path = path_of(send(client, picture(7)))
    wait_until(lambda: runner.statistics()["lanes_busy"] == 1)
    waiting = pool.submit(runner.enhance, make_upload(7))
    wait_until(lambda: runner.statistics()["waiting_requests"] == 1)
    device.good_batches = 0
    device.may_go_on.set()
    assert first_pixel(read(waiting.result(60))) == EXACT
    assert wait_for(client, path, "done", "failed")["state"] == "done"
    assert runner.statistics()["inferences"] == 1


def test_result_that_nobody_keeps_is_computed_anew(client: FlaskClient, device: FakeDevice) -> None:
    fail_from_now(device)
    answer = upload(client, content=picture(7), headers={"Cache-Control": "no-store"})
    assert first_pixel(answer.data) == EXACT
    assert client.get("/api/stats").get_json()["cache_size"] == 0


def test_job_named_before_the_gpu_failed_never_gets_opencvs_result(
    runner: Runner, device: FakeDevice
) -> None:
    """Others wait for memory or for a thread meanwhile, or find the PNG that theirs is made of."""
    sent = make_upload(7)
    webp = Options(format="webp")
    gpu_names = [runner.result_name(sent.key), runner.result_name(sent.key, webp)]
    fail_from_now(device)
    read(runner.enhance(sent))
    for name, options in zip(gpu_names, (Options(), webp), strict=True):
        header, place = ImageHeader(20, 20, False), runner.scheduler.admit(400)
        job = Job(name, make_upload(7).file, header, options, place)
        with pytest.raises(EngineLost):
            Pipeline(runner.resources).compute(job)
        place.release()
        assert runner.open_result(name) is None


def test_client_is_charged_once(runner: Runner, device: FakeDevice) -> None:
    charged: list[int] = []

    class Account(Charge):
        def reserve(self, pixels: int) -> Reservation:
            charged.append(pixels)
            reservation = Reservation()
            reservation.give_back = lambda: charged.remove(pixels)  # type: ignore[method-assign]
            return reservation

    fail_from_now(device)
    read(runner.enhance(make_upload(7), charge=Account()))
    assert charged == [400]


def test_upload_of_a_client_that_left_is_closed(runner: Runner, device: FakeDevice) -> None:
    device.may_go_on.clear()
    sent = make_upload(7)

    def has_left() -> bool:
        return runner.statistics()["lanes_busy"] == 1

    with pytest.raises(ClientLeft):
        runner.enhance(sent, has_left=has_left)
    device.good_batches = 0
    device.may_go_on.set()
    wait_until(lambda: sent.file.closed)


def test_service_goes_on_with_opencv_and_says_so(
    app: Flask, client: FlaskClient, device: FakeDevice, caplog: pytest.LogCaptureFixture
) -> None:
    health = client.get("/api/health").get_json()
    assert (health["engine"], health["engine_fallback"]) == ("torch", None)
    fail_from_now(device)
    assert upload(client, content=picture(7)).status_code == 200
    device.good_batches = 1000
    assert first_pixel(upload(client, content=picture(8)).data) == [8, 50, 60]
    health = client.get("/api/health").get_json()
    assert health["engine"] == "cv2.dnn"
    assert health["engine_fallback"] == "torch has failed; a restart tries it again"
    assert 'engine="cv2.dnn"' in client.get("/metrics").get_data(as_text=True)
    assert caplog.text.count("from now on, cv2.dnn computes") == 1
    assert client.get("/api/ready").status_code == 200


@pytest.mark.parametrize("failing", [FAITHFUL, RESTORE])
def test_both_modes_leave_a_gpu_that_fails(
    failing: str, gpu_engine: Engine, device: FakeDevice, tmp_path: Path
) -> None:
    model_path = tmp_path / "model.pb"
    model_path.write_bytes(b"model")
    loader = ModelLoader(
        lambda: Upscaler(model_path, gpu_engine),
        lambda beside: Upscaler(model_path, gpu_engine, beside=beside),
    )
    before = [loader.get(mode) for mode in (FAITHFUL, RESTORE)]
    assert before[0]._lanes is before[1]._lanes
    fail_from_now(device)
    with pytest.raises(EngineLost):
        loader.get(failing).upscale(np.zeros((20, 20, 3), np.uint8))
    loader.get(failing)
    after = [loader.get(mode) for mode in (FAITHFUL, RESTORE)]
    assert [model.profile.engine for model in after] == ["cv2.dnn", "cv2.dnn"]
    assert after[0]._lanes is after[1]._lanes
    for model in (before[0], after[0]):
        model.close()


def test_lanes_of_a_gpu_and_of_the_cpus_are_not_shared(
    fake_super_resolution: Upscaler, fake_model: FakeModel, tmp_path: Path
) -> None:
    engine = Engine(fake_model.load, OTHER_PROFILE)
    assert fake_super_resolution.lanes == LANES
    model = Upscaler(tmp_path / "fake.pb", engine, beside=fake_super_resolution)
    assert model._lanes is not fake_super_resolution._lanes
    model.close()
