"""The two modes: what a client gets in each, and where there is no restoring model."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from flask.testing import FlaskClient
from PIL import Image

import app
from app import find_models
from super_resolution import SuperResolution
from superres.engines.engine import Engine
from superres.engines.model_loader import ModelLoader
from superres.engines.opencv_engine import RESTORE_PROFILE, load_network, make_opencv_engine
from superres.engines.upscaler import Upscaler
from superres.errors import ConfigError, ModelError, NotReady
from superres.images.options import FAITHFUL, RESTORE, Options
from superres.images.pixels import Pixels
from superres.paths import EMBEDDED_MODEL_PATH, RESTORE_MODEL_PATH
from superres.service.runner import Runner
from superres.service.upload import Upload
from superres.settings import Settings
from superres.store.result_name import generate_file_hash
from superres.web.uploads import read_upload
from testkit.app_client import AppMaker, assert_problem, upload
from testkit.job_client import ASYNC
from testkit.pictures import PNG, encode, largest_difference
from testkit.waiting import wait_until


def decode(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(content)))


def test_restoring_has_its_own_model_result_and_name(client: FlaskClient) -> None:
    faithful, restored = upload(client), upload(client, mode="restore")
    np.testing.assert_array_equal(decode(restored.data), 255 - decode(faithful.data))
    assert upload(client, mode="faithful").headers["X-Cache-Hit"] == "true"
    assert upload(client, mode="restore").headers["X-Cache-Hit"] == "true"
    assert "photo_x3.png" in faithful.headers["Content-Disposition"]
    assert "photo_restored_x3.png" in restored.headers["Content-Disposition"]
    statistics = client.get("/api/stats").get_json()
    assert (statistics["inferences"], statistics["inferences_restore"]) == (2, 1)


def test_default_mode_has_no_part_in_names_and_jobs() -> None:
    """Otherwise an update would forget all stored results, and older replicas leave all jobs."""
    assert "mode" not in Options().as_dict()
    assert Options(mode=RESTORE).as_dict()["mode"] == RESTORE


def test_restoring_cleans_an_image_at_its_own_size(client: FlaskClient) -> None:
    cleaned = upload(client, mode="restore", scale="1")
    assert decode(cleaned.data).shape == decode(PNG).shape
    assert "photo_restored_x1.png" in cleaned.headers["Content-Disposition"]
    assert_problem(upload(client, scale="1"), 400, "bad_request")
    assert_problem(upload(client, mode="Restored"), 400, "bad_request")


def test_model_is_loaded_when_it_is_first_asked_for_and_shares_the_lanes(
    client: FlaskClient, runner: Runner
) -> None:
    health = client.get("/api/health").get_json()
    assert (health["restore_model"], health["restore_model_sha256"]) == ("EDSR_x3_restore.pb", None)
    upload(client, mode="restore")
    restoring = runner.model_loader.models[RESTORE]
    assert restoring._lanes is runner.model_loader.get()._lanes
    assert client.get("/api/health").get_json()["restore_model_sha256"] == restoring.model_sha256


def test_model_is_loaded_at_start_where_that_is_set(make_app: AppMaker, settings: Settings) -> None:
    app = make_app(replace(settings, restore_preload=True))
    assert set(app.extensions["runner"].model_loader.models) == {FAITHFUL, RESTORE}


def test_restored_job_is_computed_in_its_mode(client: FlaskClient) -> None:
    options = {"mode": "restore", "format": "webp", "lossless": "true"}
    accepted = client.post(
        "/api/enhance", data=PNG, query_string=options, content_type="image/png",
        headers={"Prefer": "respond-async, wait=20"},
    )  # fmt: skip
    assert accepted.status_code == 200
    np.testing.assert_array_equal(decode(accepted.data), 255 - decode(upload(client).data))
    found = client.get(
        "/api/result", query_string={**options, "sha256": generate_file_hash(PNG)}
    ).get_json()
    assert found["exists"]


def test_without_a_model_the_mode_is_refused_and_its_jobs_are_left(
    make_app: AppMaker,
) -> None:
    """Replicas may differ: a job that one cannot compute waits for another."""
    app = make_app()
    runner: Runner = app.extensions["runner"]
    runner.model_loader.modes = (FAITHFUL,)
    runner.model_loader._load_restoring = None
    client = app.test_client()
    assert_problem(upload(client, mode="restore"), 400, "mode_unavailable")
    assert upload(client).status_code == 200
    ticket, _ = runner.jobs.submit("0" * 64 + "name", {"mode": "restore"}, 1, "spool")
    runner.keeper.wake()
    wait_until(lambda: bool(runner.jobs._foreign))
    status = runner.jobs.find(ticket)
    assert status is not None
    assert status.state == "queued"


def test_upload_for_a_mode_that_is_not_there_is_closed(
    client: FlaskClient, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads: list[Upload] = []

    def read_and_note(*arguments: Any) -> Upload:
        uploads.append(read_upload(*arguments))
        return uploads[-1]

    monkeypatch.setattr("superres.web.enhance_routes.read_upload", read_and_note)
    runner.model_loader._load_restoring = None
    for headers in ({}, ASYNC):
        response = upload(client, headers=headers, mode="restore")
        assert_problem(response, 400, "mode_unavailable")
    assert [each.file.closed for each in uploads] == [True, True]


def test_model_that_is_not_there_is_told_at_start(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot read the model"):
        find_models(replace(settings, restore_model_path=tmp_path / "none.pb"))
    assert find_models(replace(settings, restore_model_path=None)).modes == (FAITHFUL,)


@pytest.mark.parametrize(
    ("engine", "reason"),
    [("torch", "another network"), ("cv2.dnn", "no GPU")],
    ids=["another network", "no GPU"],
)
def test_restoring_model_that_cannot_be_on_a_gpu_is_in_opencv_and_says_why(
    engine: str,
    reason: str,
    make_app: AppMaker,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_path: Path, _device: str) -> Engine:
        raise ModelError("another network")

    monkeypatch.setattr(app, "choose_torch_engine", refuse)
    opencv = make_opencv_engine(EMBEDDED_MODEL_PATH)
    chosen = replace(opencv, fallback_reason=None if engine == "torch" else reason)
    profile = replace(opencv.profile, engine=engine)
    model = Upscaler(EMBEDDED_MODEL_PATH, replace(chosen, profile=profile), lanes=1)
    monkeypatch.setattr(app, "load_model", lambda _settings: model)
    loader = find_models(replace(settings, engine="torch", restore_model_path=RESTORE_MODEL_PATH))
    restoring = loader.get(RESTORE)
    assert restoring.profile == RESTORE_PROFILE
    application = make_app()
    application.extensions["runner"].model_loader.models[RESTORE] = restoring
    health = application.test_client().get("/api/health").get_json()
    assert health["restore_engine"] == "cv2.dnn"
    assert health["restore_engine_fallback"] == reason
    model.close()


def test_loading_a_model_at_start_that_is_left_out_is_a_wrong_setting() -> None:
    environ = {"SR_RESTORE_PRELOAD": "true", "SR_RESTORE_MODEL_PATH": "none"}
    with pytest.raises(ConfigError, match="SR_RESTORE_PRELOAD"):
        Settings.from_env(environ)


def test_model_that_cannot_be_loaded_later_costs_only_its_mode(
    fake_super_resolution: Upscaler,
) -> None:
    def load_restoring(_beside: Upscaler) -> Upscaler:
        raise ModelError("gone")

    loader = ModelLoader(lambda: fake_super_resolution, load_restoring)
    with pytest.raises(NotReady):
        loader.get(RESTORE)
    assert loader.get() is fake_super_resolution
    loader.check_loaded()


def test_job_whose_model_cannot_be_used_waits_and_others_go_on(
    client: FlaskClient,
    runner: Runner,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    upload(client, mode="restore")
    runner.model_loader._sound_modes.remove(RESTORE)
    assert_problem(upload(client, mode="restore", scale="2"), 503, "not_ready")
    monkeypatch.setattr(runner.model_loader, "refuse_unsound", lambda _mode: None)
    with monkeypatch.context() as closed:
        closed.setattr(runner._local_jobs, "claimable_pixels", lambda: 0)
        accepted = client.post(
            "/api/enhance?mode=restore&scale=4",
            data=PNG,
            content_type="image/png",
            headers={"Prefer": "respond-async"},
        )
    monkeypatch.undo()
    assert upload(client, format="webp").status_code == 200
    wait_until(lambda: "gives wrong results" in caplog.text)
    path = f"/api/jobs/{accepted.get_json()['id']}"
    assert client.get(path).get_json()["state"] in {"queued", "running"}
    assert "Traceback" not in caplog.text
    runner.model_loader._sound_modes.add(RESTORE)


# --- the committed model


@pytest.fixture(scope="module")
def restoring(real_super_resolution: SuperResolution) -> Upscaler:
    engine = make_opencv_engine(RESTORE_MODEL_PATH)
    return Upscaler(RESTORE_MODEL_PATH, engine, beside=real_super_resolution)


def test_committed_model_computes_its_golden_tile_and_tiles_meet(
    restoring: Upscaler, photo: Pixels
) -> None:
    assert restoring.profile is RESTORE_PROFILE
    assert restoring.matches_golden_tile()
    noise = np.random.default_rng(1).integers(0, 256, (170, 170, 3), np.uint8)
    for image in (noise, np.ascontiguousarray(photo[60:230, 140:310])):
        whole = load_network(RESTORE_MODEL_PATH)(image)
        assert largest_difference(restoring.upscale(image), whole) <= 1


def test_restoring_brings_blurred_photographs_closer_to_the_truth(
    restoring: Upscaler, real_super_resolution: SuperResolution, photo: Pixels
) -> None:
    truth = photo[:288, :384]
    small = cv2.GaussianBlur(cv2.resize(truth, (128, 96), interpolation=cv2.INTER_AREA), (0, 0), 1)
    file = encode(Image.fromarray(small), "JPEG", quality=80)
    damaged = np.asarray(Image.open(BytesIO(file)))
    restored, faithful = restoring.upscale(damaged), real_super_resolution.upscale(damaged)
    assert cv2.PSNR(restored, truth) > cv2.PSNR(faithful, truth) + 0.9


def test_restoring_removes_noise(
    restoring: Upscaler, real_super_resolution: SuperResolution
) -> None:
    noisy = np.random.default_rng(1).normal(120, 12, (96, 96, 3)).clip(0, 255).astype(np.uint8)
    assert restoring.upscale(noisy).std() < 0.3 * real_super_resolution.upscale(noisy).std()
