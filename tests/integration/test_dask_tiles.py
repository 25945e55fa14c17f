"""Tiles on a real Dask cluster whose workers die, hang, or have a different model."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data

from super_resolution import SuperResolution
from superres.engines import dask_tiles
from superres.engines.dask_tiles import Cluster, load_on_cluster
from superres.engines.lanes import Progress
from superres.engines.model_files import hash_model
from superres.engines.upscaler import Upscaler
from superres.errors import ConfigError
from superres.images.pixels import Pixels
from superres.paths import EMBEDDED_MODEL_PATH
from superres.settings import Settings
from testkit.dask_cluster import DaskCluster, make_certificates, run_dask
from testkit.service import find_free_port

PICTURE: Pixels = np.ascontiguousarray(data.astronaut()[:300, :300, ::-1])


@pytest.fixture(scope="module")
def expected() -> Pixels:
    model = SuperResolution()
    enlarged = model.upscale(PICTURE)
    model.close()
    return enlarged


@contextmanager
def use_dask_settings(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Have Dask read its settings from the environment, within the block."""
    import dask.config

    try:
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            dask.config.refresh()
            yield
    finally:
        dask.config.refresh()


@pytest.fixture
def dask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DaskCluster]:
    with (
        run_dask(tmp_path / "dask") as cluster,
        use_dask_settings(cluster.environment, monkeypatch),
    ):
        yield cluster


ModelMaker = Callable[[str], Upscaler]


@pytest.fixture
def load() -> Iterator[ModelMaker]:
    """Load the model on a cluster, and disconnect in the end."""
    clusters: list[Cluster] = []
    models: list[Upscaler] = []

    class Noted(Cluster):
        def __init__(self, scheduler: str, model_path: Path) -> None:
            super().__init__(scheduler, model_path)
            clusters.append(self)

    def make(scheduler: str) -> Upscaler:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dask_tiles, "Cluster", Noted)
            models.append(load_on_cluster(scheduler, EMBEDDED_MODEL_PATH))
        return models[-1]

    yield make
    for model in models:
        model.close()
    for cluster in clusters:
        cluster.close()


def count_local_tiles(monkeypatch: pytest.MonkeyPatch) -> list[Pixels]:
    """Record the tiles that are computed locally."""
    tiles: list[Pixels] = []
    compute = Cluster._compute_here

    def note(self: Cluster, tile: Pixels) -> Pixels:
        tiles.append(tile)
        return compute(self, tile)

    monkeypatch.setattr(Cluster, "_compute_here", note)
    return tiles


def test_workers_compute_what_one_machine_computes(
    dask: DaskCluster, load: ModelMaker, expected: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = count_local_tiles(monkeypatch)
    model = load(dask.address)
    assert model.lanes == 2 * 2
    assert model.matches_golden_tile()
    assert np.array_equal(model.upscale(PICTURE), expected)
    assert here == []
    assert 0 < model.speed.now < 1e-3
    assert model.fingerprint == SuperResolution(lanes=1).fingerprint


def disturb(model: Upscaler, act: Callable[[], None]) -> Pixels:
    """Upscale the image, and do something once the first tiles are done."""
    progress = Progress()

    def wait_and_act() -> None:
        while progress.tiles_done < 2:
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    (enlarged,) = model.upscale_all([PICTURE], progress)
    thread.join()
    return enlarged


def test_worker_that_dies_costs_no_tile(
    dask: DaskCluster, load: ModelMaker, expected: Pixels
) -> None:
    model = load(dask.address)
    assert np.array_equal(disturb(model, dask.workers[0].kill), expected)


def test_worker_that_hangs_costs_no_tile(
    dask: DaskCluster, load: ModelMaker, expected: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(dask.address)
    monkeypatch.setattr(dask_tiles, "TILE_SECONDS", 3)
    hang = dask.workers[0].pid
    assert np.array_equal(disturb(model, lambda: os.kill(hang, signal.SIGSTOP)), expected)


def test_scheduler_that_dies_leaves_the_local_lanes(
    dask: DaskCluster, load: ModelMaker, expected: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = count_local_tiles(monkeypatch)
    model = load(dask.address)
    assert np.array_equal(disturb(model, dask.processes[0].kill), expected)
    assert here
    assert np.array_equal(model.upscale(PICTURE), expected)


@pytest.fixture
def certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Certificates, without a cluster."""
    with use_dask_settings(make_certificates(tmp_path), monkeypatch):
        yield


@pytest.mark.usefixtures("certificates")
def test_without_a_cluster_the_machine_computes_alone(load: ModelMaker, expected: Pixels) -> None:
    model = load(f"tls://127.0.0.1:{find_free_port()}")
    assert np.array_equal(model.upscale(PICTURE), expected)


@pytest.mark.parametrize("ca_file", ["", "/nonexistent/ca.pem", str(EMBEDDED_MODEL_PATH)])
def test_missing_certificates_are_a_wrong_setting(
    load: ModelMaker, ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"DASK_DISTRIBUTED__COMM__TLS__CA_FILE": ca_file} if ca_file else {}
    with (
        use_dask_settings(settings, monkeypatch),
        pytest.raises(ConfigError, match="CA_FILE"),
    ):
        load(f"tls://127.0.0.1:{find_free_port()}")


def test_worker_with_another_model_computes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "EDSR_x3.pb"
    shutil.copy(EMBEDDED_MODEL_PATH, other)
    with other.open("ab") as file:
        file.write(b"\0")
    monkeypatch.setenv("SR_MODEL_PATH", str(other))
    digest = hash_model(EMBEDDED_MODEL_PATH)
    with pytest.raises(LookupError, match=digest):
        dask_tiles.compute_tile(PICTURE[:64, :64], digest, cv2.__version__)


def test_worker_with_another_opencv_computes_nothing() -> None:
    digest = hash_model(EMBEDDED_MODEL_PATH)
    with pytest.raises(LookupError, match=r"not 0\.0\.1"):
        dask_tiles.compute_tile(PICTURE[:64, :64], digest, "0.0.1")


def test_strangers_are_refused(dask: DaskCluster, tmp_path: Path) -> None:
    """A certificate from another authority is rejected; one from this one is accepted."""
    connect = f"import distributed; print(distributed.Client({dask.address!r}, timeout=5).status)"
    (tmp_path / "stranger").mkdir()
    for environment, outcome in (
        (make_certificates(tmp_path / "stranger"), ""),
        (dask.environment, "running\n"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", connect],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stdout == outcome, done.stderr


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:8786", "127.0.0.1:8786", "tls://host"])
def test_scheduler_without_tls_is_a_wrong_setting(address: str) -> None:
    with pytest.raises(ConfigError, match="SR_DASK_SCHEDULER"):
        Settings.from_env({"SR_DASK_SCHEDULER": address})
