"""Fixtures: photographs, a fake model for logic, the real one for pictures."""

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image
from skimage import data
from werkzeug.test import TestResponse

from app import create_app
from databases import PostgresDatabase
from engine import Engine
from lanes import Network
from opencv_engine import OTHER_PROFILE
from options import MODEL_SCALE
from result_cache import StoredResult, generate_file_hash
from runner import Result, Runner
from settings import Settings
from super_resolution import SuperResolution
from tests.postgres import run_postgres
from tiling import Pixels
from training.network import Weights
from upload import Upload
from upscaler import Upscaler


class FakeModel:
    """A model file's stand-in: enlarges by repeating pixels; can be told to wait or to fail."""

    def __init__(self) -> None:
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.started = threading.Event()
        self.error: Exception | None = None
        self.tiles = 0

    def load(self, _model_path: Path) -> Network:
        return self.upsample

    def upsample(self, image: Pixels) -> Pixels:
        self.started.set()
        assert self.may_go_on.wait(30)
        if self.error is not None:
            raise self.error
        self.tiles += 1
        return image.repeat(MODEL_SCALE, axis=0).repeat(MODEL_SCALE, axis=1)


@pytest.fixture
def fake_model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def fake_super_resolution(tmp_path: Path, fake_model: FakeModel) -> Iterator[Upscaler]:
    model_path = tmp_path / "fake.pb"
    model_path.write_bytes(b"fake model")
    model = Upscaler(model_path, Engine(fake_model.load, OTHER_PROFILE), lanes=2)
    fake_model.started.clear()
    yield model
    fake_model.may_go_on.set()
    model.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache_dir=tmp_path / "cache", state_dir=tmp_path / "state")


AppMaker = Callable[..., Flask]


class BufferedClient(FlaskClient):
    """Reads every answer to its end and closes it, as a server does."""

    def open(self, *args: Any, **kwargs: Any) -> TestResponse:
        return super().open(*args, **{"buffered": True, **kwargs})


@pytest.fixture
def make_app(
    settings: Settings, fake_super_resolution: Upscaler
) -> Iterator[Callable[[Settings | None], Flask]]:
    """Make an application with the fake model, loaded and ready."""
    made: list[Flask] = []

    def make(other_settings: Settings | None = None) -> Flask:
        app = create_app(other_settings or settings, fake_super_resolution)
        app.test_client_class = BufferedClient
        app.extensions["runner"].start()
        made.append(app)
        return app

    yield make
    for app in made:
        app.extensions["runner"].stop()


@pytest.fixture
def app(make_app: AppMaker) -> Flask:
    return make_app()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def runner(app: Flask) -> Runner:
    found: Runner = app.extensions["runner"]
    return found


@pytest.fixture(scope="session")
def real_super_resolution() -> Iterator[SuperResolution]:
    model = SuperResolution()
    yield model
    model.close()


@pytest.fixture(scope="session")
def photo() -> Pixels:
    """A photograph, (512, 512, 3) uint8, BGR."""
    return np.ascontiguousarray(data.astronaut()[:, :, ::-1])


def largest_difference(first: Pixels, second: Pixels) -> int:
    """Return how far two pictures of one size are apart at most, in levels."""
    assert first.shape == second.shape
    return int(np.abs(first.astype(np.int16) - second).max())


def encode(image: Image.Image, image_format: str, **options: object) -> bytes:
    """Return a picture as a file of a format."""
    buffer = BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def photo_jpeg(photo: Pixels) -> bytes:
    """A photograph of 64 x 48 pixels as a JPEG file."""
    return encode(Image.fromarray(photo[100:148, 180:244, ::-1]), "JPEG", quality=90)


def draw_weights(shapes: dict[str, tuple[int, int]]) -> Weights:
    """Draw weights small enough that a network's output stays within a picture's range."""
    random = np.random.default_rng(1)
    weights = {}
    for name, (outputs, inputs) in shapes.items():
        deviation = 0.5 / np.sqrt(9 * inputs)
        weights[f"{name}_weight"] = random.normal(0, deviation, (outputs, inputs, 3, 3))
        weights[f"{name}_bias"] = random.normal(0, 0.1, outputs)
    return {name: array.astype(np.float32) for name, array in weights.items()}


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL server."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)  # the server runs as another user
        with run_postgres(Path(name) / "postgres") as url:
            yield url


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """The URL of an empty PostgreSQL database."""
    with closing(PostgresDatabase(postgres_server, [])) as server:
        server.execute("DROP SCHEMA public CASCADE")
        server.execute("CREATE SCHEMA public")
    return postgres_server


# 20x10 pixels of one colour.
PNG = encode(Image.new("RGB", (20, 10), (10, 20, 30)), "PNG")


def upload(
    client: FlaskClient,
    name: str = "photo.png",
    headers: dict[str, str] | None = None,
    content: bytes = PNG,
) -> TestResponse:
    form = {"image": (BytesIO(content), name)}
    return client.post("/api/enhance", data=form, headers=headers or {})


def assert_problem(response: TestResponse, status: int, code: str) -> None:
    assert response.status_code == status, response.data
    assert response.content_type == "application/problem+json"
    assert response.headers["Cache-Control"] == "no-store, must-revalidate"
    body = response.get_json()
    assert (body["status"], body["code"]) == (status, code)
    assert body["error"] == body["detail"]
    assert body["type"] == "about:blank"
    assert body["timestamp"].endswith("+00:00")
    for internal in ("Traceback", "Error:", ".py", "werkzeug"):
        assert internal not in body["error"]


def make_upload(shade: int = 0, side: int = 20) -> Upload:
    content = encode(Image.new("RGB", (side, side), (shade, 50, 60)), "PNG")
    return Upload(BytesIO(content), generate_file_hash(content), "photo")


def read(result: Result) -> bytes:
    if isinstance(result.content, StoredResult):
        with result.content.file as file:
            return file.read()
    return bytes(result.content)
