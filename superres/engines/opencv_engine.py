"""Runs the model in OpenCV, through `cv2.dnn_superres`: exact, on every processor."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from superres.engines.engine import Engine, ModelProfile, Network
from superres.engines.model_files import hash_model, read_expected_sha256
from superres.images.options import MODEL_SCALE
from superres.paths import EMBEDDED_MODEL_PATH, RESTORE_MODEL_PATH

# At most 1/255 from the untiled result, on photographs and on binary noise. From 120 to 152 the
# time per pixel is the same within 2 %; beyond, two lanes outgrow a 32 MB cache. Golden tiles may
# be off by one level: processors add in different orders, and round differently.
EMBEDDED_PROFILE = ModelProfile(
    "cv2.dnn", 128, 10, 90 * 1024**2, golden_output="golden_output.png", golden_tolerance=2
)
# The same network with other weights, which look further: at most 1/255, too.
RESTORE_PROFILE = replace(EMBEDDED_PROFILE, halo=14, golden_output="golden_output_restore.png")
# A model with no more weights: its owner's training of this network, or a smaller one.
LIGHT_PROFILE = replace(EMBEDDED_PROFILE, golden_output=None)
# Measured with OpenCV's stock EDSR_x3.pb: at most 2/255.
OTHER_PROFILE = ModelProfile("cv2.dnn", tile=96, halo=10, lane_bytes=1400 * 1024**2)


def load_network(model_path: Path) -> Network:
    """Load one copy of the model into OpenCV."""
    model = cv2.dnn_superres.DnnSuperResImpl.create()
    model.readModel(str(model_path))
    model.setModel("edsr", MODEL_SCALE)
    return lambda image: np.asarray(model.upsample(image), np.uint8)


def choose_profile(model_path: Path, model_sha256: str) -> ModelProfile:
    """Return the constants of a model in OpenCV."""
    if model_sha256 == read_expected_sha256(EMBEDDED_MODEL_PATH):
        return EMBEDDED_PROFILE
    if model_sha256 == read_expected_sha256(RESTORE_MODEL_PATH):
        return RESTORE_PROFILE
    is_light = model_path.stat().st_size <= EMBEDDED_MODEL_PATH.stat().st_size
    return LIGHT_PROFILE if is_light else OTHER_PROFILE


def make_opencv_engine(model_path: Path) -> Engine:
    """Return the engine for a model.

    Raises
    ------
    ModelError
        The file is missing or damaged.
    """
    return Engine(load_network, choose_profile(model_path, hash_model(model_path)))
