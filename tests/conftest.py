"""Fixtures: photographs, a fake model for logic, and the real one for images."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image
from skimage import data

from app import create_app
from super_resolution import SuperResolution
from superres.engines.engine import Engine
from superres.engines.model_loader import ModelLoader
from superres.engines.opencv_engine import OTHER_PROFILE
from superres.engines.upscaler import Upscaler
from superres.images.pixels import Pixels
from superres.jobs.postgres_database import PostgresDatabase
from superres.sandbox.sandbox import Sandbox
from superres.service import recent_failures
from superres.service.runner import Runner
from superres.setting_parsers import parse_networks
from superres.settings import Settings
from testkit.app_client import AppMaker, BufferedClient
from testkit.fakes import FakeModel
from testkit.image_addresses import KEY
from testkit.pictures import encode
from testkit.postgres import run_postgres
from testkit.source_server import SourceServer, run_source_server

# They take longest: begun first, they do not keep one process at work when all others have ended.
LONG_FILES = (
    "test_spool_hold",
    "test_job_service",
    "test_page_reload",
    "test_outages",
    "test_hostile_load",
    "test_restarts",
    "test_nginx",
    "test_nginx_outages",
    "test_cluster",
    "test_store_outages",
    "test_memory_estimate",
    "test_dask_tiles",
    "test_service",
    "test_contract",
    "test_openvino_engine",
    "test_page_queue",
    "test_faults",
    "test_image_addresses",
    "test_enhance",
    "test_page_accessibility",
    "test_page_viewer",
    "test_cross_origin",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long files first and unit tests last; processes take the files in this order."""
    turns = {name: turn for turn, name in enumerate(LONG_FILES)}

    def turn(item: pytest.Item) -> tuple[int, bool]:
        return turns.get(item.path.stem, len(turns)), "unit" in item.path.parts

    items.sort(key=turn)


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


class SharedSandbox(Sandbox):
    """One for all tests of a process: each start of its helper takes half a second."""

    def close(self) -> None:
        """Stay open for the next test."""


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    shared = SharedSandbox()
    yield shared
    Sandbox.close(shared)


@pytest.fixture
def make_app(
    settings: Settings,
    fake_super_resolution: Upscaler,
    fake_model: FakeModel,
    sandbox: Sandbox,
    tmp_path: Path,
) -> Iterator[Callable[[Settings | None], Flask]]:
    """Create an application with the fake model, loaded and ready; restoring makes negatives."""
    made: list[Flask] = []

    def load_negative(beside: Upscaler) -> Upscaler:
        model_path = tmp_path / "fake_restore.pb"
        model_path.write_bytes(b"another model")
        engine = Engine(lambda _: lambda image: 255 - fake_model.upsample(image), OTHER_PROFILE)
        return Upscaler(model_path, engine, beside=beside)

    def make(other_settings: Settings | None = None) -> Flask:
        loader = ModelLoader(lambda: fake_super_resolution, load_negative)
        app = create_app(other_settings or settings, loader)
        app.test_client_class = BufferedClient
        app.extensions["runner"].resources.codec.sandbox = sandbox
        app.extensions["runner"].start()
        made.append(app)
        return app

    yield make
    for app in made:
        app.extensions["runner"].stop()


@pytest.fixture
def make_idle_app() -> Iterator[Callable[[Settings], Flask]]:
    """Create an application that is never started, and loads no model."""
    made: list[Flask] = []

    def make(settings: Settings) -> Flask:
        made.append(create_app(settings))
        return made[-1]

    yield make
    for app in made:
        app.extensions["runner"].jobs.database.close()


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


@pytest.fixture
def sources() -> Iterator[SourceServer]:
    """A web server with images."""
    with run_source_server() as server:
        yield server


@pytest.fixture
def images(settings: Settings) -> Settings:
    """Settings of a service that has images by their addresses, also from that server."""
    return replace(settings, url_key=(KEY,), source_networks=parse_networks("127.0.0.0/8"))


@pytest.fixture
def later(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let so many seconds pass: for what is recorded, by the database's clock, and for failures."""
    passed = [0.0]
    monkeypatch.setattr(recent_failures, "monotonic", lambda: passed[0])
    database = app.extensions["runner"].jobs.database

    def wait(seconds: float) -> None:
        passed[0] += seconds
        database.execute("UPDATE sources SET validated = validated - ?", [seconds])

    return wait


@pytest.fixture(scope="session")
def photo() -> Pixels:
    """A photograph, (512, 512, 3) uint8, BGR."""
    return np.ascontiguousarray(data.astronaut()[:, :, ::-1])


@pytest.fixture(scope="session")
def photo_jpeg(photo: Pixels) -> bytes:
    """A photograph of 64 x 48 pixels as a JPEG file."""
    return encode(Image.fromarray(photo[100:148, 180:244, ::-1]), "JPEG", quality=90)


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
