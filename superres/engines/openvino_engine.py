"""The embedded models in 8 bits with OpenVINO: several times faster with VNNI or AMX.

`training/quantize.py` makes them. Patterns of extreme contrast, such as an image dithered to few
colours, exceed the 8-bit ranges; tiles with such patterns are computed by OpenCV.
"""

import logging
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np

from superres.engines.engine import Engine, ModelProfile, Network
from superres.engines.model_files import hash_model, read_expected_sha256, read_golden_tile
from superres.engines.opencv_engine import EMBEDDED_PROFILE, load_network, make_opencv_engine
from superres.engines.tiling import split_image
from superres.errors import ModelError
from superres.images.options import MODEL_SCALE
from superres.images.pixels import Pixels
from superres.paths import EMBEDDED_MODEL_PATH, RESTORE_MODEL_PATH

# For one lane.
OPTIONS = {
    "INFERENCE_NUM_THREADS": 1,
    "NUM_STREAMS": 1,
    # Pinned, all lanes would share the first CPU.
    "ENABLE_CPU_PINNING": False,
    # Layers that are not 8-bit compute the same on all processors.
    "INFERENCE_PRECISION_HINT": "f32",
    # Would keep kernels of past tile shapes: 1 MB each, without bound.
    "CPU_RUNTIME_CACHE_CAPACITY": 0,
}

# On the golden tile, compared with `cv2.dnn_superres`: 51.9 dB and 5 with VNNI or AMX, and 51.5 and
# 4 for the restoring model. AVX-512 without them (50.05 dB) computes different pixels, and is about
# as fast as OpenCV.
LEAST_PSNR = 51.0
LARGEST_DIFFERENCE = 8
# With a smaller gain (plain AVX2: 1.24), the exact engine is the better choice.
LEAST_SPEED_UP = 1.5
TIMED_REPEATS = 3  # of the golden tile, on each side
TIMED_ROUNDS = 3

# Extreme contrasts exceed the 8-bit ranges. Mean absolute Laplacian, in levels: of a colour channel
# over 4x4 pixels, and of the colour differences (B-G, G-R, R-B) over 16x16. 226 photographs, each
# in four sizes, have at most 386 and 253. Of 3000 small patterns, those within both limits are at
# most 36 levels from float32, the others up to 137 (`bench/quantisation.py`).
MOST_CONTRAST = 450
CONTRAST_WINDOW = 4
MOST_COLOUR_CONTRAST = 300
COLOUR_WINDOW = 16

logger = logging.getLogger(__name__)


def measure_contrasts(tile: Pixels) -> tuple[float, float]:
    """Return the largest local contrast of levels, and of colours, in a (H, W, 3) uint8 tile."""
    change = cv2.Laplacian(tile, cv2.CV_16S, borderType=cv2.BORDER_REFLECT_101)
    contrast = np.abs(change).max(axis=2).astype(np.float32)
    colours = np.abs(change - np.roll(change, 1, axis=2)).astype(np.float32)
    return (
        float(cv2.blur(contrast, (CONTRAST_WINDOW, CONTRAST_WINDOW)).max()),
        float(cv2.blur(colours, (COLOUR_WINDOW, COLOUR_WINDOW)).max()),
    )


def is_extreme(tile: Pixels) -> bool:
    """Tell whether 8 bits may damage a tile."""
    contrast, colour_contrast = measure_contrasts(tile)
    return contrast > MOST_CONTRAST or colour_contrast > MOST_COLOUR_CONTRAST


def import_openvino() -> ModuleType:
    """Return the package.

    Raises
    ------
    ModelError
        It is not installed, or the installation is incomplete.
    """
    # On import, OpenVINO would send telemetry and write to the home folder.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        fault = "SR_ENGINE=openvino needs the extra openvino: pip install '.[openvino]'"
        raise ModelError(f"{fault} ({error})") from None
    module: ModuleType = openvino
    return module


def find_quantised(model_path: Path) -> Path:
    """Return the 8-bit form (.xml, with its .bin next to it) of an embedded .pb.

    Raises
    ------
    ModelError
        It is another model.
    """
    digest = hash_model(model_path)
    for embedded in (EMBEDDED_MODEL_PATH, RESTORE_MODEL_PATH):
        if digest == read_expected_sha256(embedded):
            return embedded.with_name(f"{embedded.stem}_int8.xml")
    raise ModelError(f"SR_ENGINE=openvino works with the embedded models only, not {model_path}")


def load_quantised(model_path: Path, quantised_path: Path | None = None) -> Network:
    """Load an 8-bit model for one thread.

    Parameters
    ----------
    model_path : the .pb that it must have been made from
    quantised_path : its .xml, if it is not the embedded one

    Raises
    ------
    ModelError
        OpenVINO is not installed, or there is no 8-bit model that was made from this .pb.
    """
    openvino = import_openvino()
    quantised_path = quantised_path or find_quantised(model_path)
    core = openvino.Core()
    model = core.read_model(quantised_path)
    if model.get_rt_info(["source_sha256"]).value != hash_model(model_path):
        raise ModelError(f"{quantised_path} was not made from {model_path}")
    mean = [float(level) for level in model.get_rt_info(["mean_bgr"]).value.split()]
    request = core.compile_model(model, "CPU", OPTIONS).create_infer_request()

    def network(tile: Pixels) -> Pixels:
        request.set_input_tensor(openvino.Tensor(tile[np.newaxis]))
        request.infer()
        planes = request.get_output_tensor().data[0]
        # In OpenVINO's graph, adding and rounding would take as long as the network.
        levels = [
            cv2.add(plane, level, dtype=cv2.CV_8U)  # type: ignore[call-overload]
            for plane, level in zip(planes, mean, strict=True)
        ]
        return np.asarray(cv2.merge(levels), np.uint8)

    return network


def load_guarded(model_path: Path) -> Network:
    """Load an 8-bit model, and the exact one for tiles that 8 bits would damage."""
    quantised, exact = load_quantised(model_path), load_network(model_path)
    profile = make_opencv_engine(model_path).profile

    def network(tile: Pixels) -> Pixels:
        if not is_extreme(tile):
            return quantised(tile)
        height, width = tile.shape[:2]
        output = np.empty((height * MODEL_SCALE, width * MODEL_SCALE, 3), np.uint8)
        for part in split_image(height, width, profile.tile, profile.halo):
            part.place(exact(part.crop(tile)), output, MODEL_SCALE)
        return output

    return network


def find_fault(
    quantised: Network, exact: Network | None, profile: ModelProfile = EMBEDDED_PROFILE
) -> str | None:
    """Return why an 8-bit model should not be used on this machine; None if it should.

    Parameters
    ----------
    exact : the model in float32, to compare times with; None if it is known to be slower
    profile : of the exact model, an embedded one
    """
    golden_input, expected = read_golden_tile(str(profile.golden_output))
    computed = quantised(golden_input)
    difference = np.abs(computed.astype(np.int16) - expected)
    psnr = cv2.PSNR(computed, expected)
    if psnr < LEAST_PSNR or difference.max() > LARGEST_DIFFERENCE:
        return f"its golden tile is {psnr:.1f} dB and {difference.max()} levels from OpenCV's"
    if exact is None:
        return None
    tile = np.tile(golden_input, (TIMED_REPEATS, TIMED_REPEATS, 1))
    exact_seconds, seconds = measure_seconds(exact, tile), measure_seconds(quantised, tile)
    # Not their quotient: where CPU time is counted in ticks of 10 ms, a tile may take none.
    if exact_seconds < LEAST_SPEED_UP * seconds:
        return f"it is only {exact_seconds / seconds:.2f} times as fast as OpenCV"
    return None


def measure_seconds(network: Network, tile: Pixels) -> float:
    """Return the least CPU time for a tile, in seconds; the first call only warms up.

    It is this process's, so what else the machine is doing does not count.
    """
    network(tile)
    seconds = []
    for _ in range(TIMED_ROUNDS):
        started = time.process_time()
        network(tile)
        seconds.append(time.process_time() - started)
    return min(seconds)


def choose_fastest_engine(model_path: Path, *, is_faster: bool = False) -> Engine:
    """Return OpenVINO if it is faster and accurate on this machine, otherwise OpenCV.

    Parameters
    ----------
    is_faster : whether that is known, from another network of this shape; then nothing is timed,
        which would go wrong while lanes are at work

    Raises
    ------
    ModelError
        OpenVINO is not installed, or this model has no 8-bit version.
    """
    version = import_openvino().get_version()
    quantised_path = find_quantised(model_path)
    # Before it computes anything: a damaged one is told as such, however fast it is.
    files = [hash_model(path) for path in (quantised_path, quantised_path.with_suffix(".bin"))]
    exact = make_opencv_engine(model_path)
    guard = f"guard {MOST_CONTRAST} {MOST_COLOUR_CONTRAST}"
    cv2.setNumThreads(1)
    try:
        timed = None if is_faster else exact.load(model_path)
        fault = find_fault(load_quantised(model_path), timed, exact.profile)
    except RuntimeError as error:
        # It generates machine code at run time, which systemd's MemoryDenyWriteExecute= forbids.
        logger.error("OpenVINO fails: %s", " ".join(str(error).split()))
        fault = "it fails; the log says how"
    if fault is not None:
        logger.warning("OpenVINO is not used on this machine: %s", fault)
        return replace(exact, fallback_reason=f"openvino is not used: {fault}")
    # Within 5 % of the least time per kept pixel, with AMX (at 224) and with VNNI (256); larger
    # tiles leave lanes idle at the end of an image (`bench/tiles.py`).
    profile = replace(
        exact.profile,
        engine="openvino",
        variant=" ".join([version, *files, guard]),
        tile=192,
        lane_bytes=120 * 1024**2,
        golden_tolerance=LARGEST_DIFFERENCE,
    )
    return Engine(load_guarded, profile)
