"""Whether SR_ENGINE=torch is used, without PyTorch: `tests/torch/` has what needs it."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import numpy as np
import pytest

from app import load_model
from superres.engines import torch_network
from superres.engines.opencv_engine import EMBEDDED_PROFILE, load_network
from superres.engines.torch_engine import (
    choose_torch_engine,
    find_result_fault,
)
from superres.engines.torch_network import read_convolutions
from superres.errors import ConfigError, ModelError
from superres.images.pixels import Pixels
from superres.paths import EMBEDDED_MODEL_PATH
from superres.settings import Settings
from testkit.fakes import draw_weights, repeat_pixels
from training.export import build_graph
from training.network import MEAN_BGR, layer_shapes


def fail() -> NoReturn:
    raise RuntimeError("secret driver")


@pytest.mark.parametrize(
    ("cuda", "fault"),
    [
        ({"is_available": lambda: False}, "PyTorch finds no GPU"),
        (
            {"is_available": lambda: True, "mem_get_info": lambda: (300 << 20, 80 << 30)},
            "300 MB of the GPU's memory are free, of 1024 that it needs",
        ),
        ({"is_available": fail}, "it fails; the log says how"),
    ],
    ids=["no device", "no memory", "broken driver"],
)
def test_service_stays_with_opencv_and_says_why(
    cuda: dict[str, object],
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(**cuda)))
    model = load_model(Settings(engine="torch", lanes=1))
    model.close()
    assert model.profile == EMBEDDED_PROFILE
    assert model.engine.fallback_reason == f"torch is not used: {fault}"
    assert f"PyTorch is not used on this machine: {fault}" in caplog.text


def test_torch_that_is_not_installed_is_an_error_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModelError, match=r"pip install '\.\[gpu\]'"):
        choose_torch_engine(EMBEDDED_MODEL_PATH, "cuda")


def test_results_must_be_as_opencvs() -> None:
    exact = load_network(EMBEDDED_MODEL_PATH)

    def spotted(tile: Pixels) -> Pixels:
        result = exact(tile)
        result[3, 5, 1] ^= 4
        return result

    assert find_result_fault(exact, exact) is None
    assert find_result_fault(spotted, exact) == "its golden tile is 4 levels from OpenCV's"
    assert "levels" in str(find_result_fault(repeat_pixels, exact))


def test_convolutions_are_those_that_were_exported(tmp_path: Path) -> None:
    weights = draw_weights(layer_shapes(blocks=2, channels=8))
    path = tmp_path / "small.pb"
    path.write_bytes(build_graph(weights).SerializeToString(deterministic=True))
    layers = read_convolutions(path)
    assert [*layers] == ["nearest", *layer_shapes(blocks=2, channels=8)]
    for part in ("block01_conv2", "body_end"):
        np.testing.assert_array_equal(layers[part][0], weights[f"{part}_weight"])
        np.testing.assert_array_equal(layers[part][1], weights[f"{part}_bias"])


@pytest.mark.parametrize("content", [b"fake model", b""])
def test_other_networks_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.pb"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="embedded models' network only"):
        read_convolutions(path)


def test_mean_is_the_one_of_the_training() -> None:
    assert torch_network.MEAN_BGR == MEAN_BGR


@pytest.mark.parametrize(
    "environ",
    [
        {"SR_ENGINE": "torch", "SR_DASK_SCHEDULER": "tls://host:8786"},
        {"SR_DEVICE": "cpu"},
        {"SR_ENGINE": "torch", "SR_DEVICE": "tpu"},
    ],
)
def test_settings_that_contradict_each_other_are_errors(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"SR_DASK_SCHEDULER|SR_DEVICE"):
        Settings.from_env(environ)
    assert Settings.from_env({"SR_ENGINE": "torch", "SR_DEVICE": "cpu"}).device == "cpu"
