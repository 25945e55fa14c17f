"""How much time each part of the network takes, on one thread, in both engines.

python -m bench.layers [--side 192]
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable

import cv2
import numpy as np

from bench.contenders import make_pixels
from superres.engines.openvino_engine import OPTIONS, find_quantised, import_openvino
from superres.images.pixels import Pixels
from superres.paths import EMBEDDED_MODEL_PATH

RUNS = 10


def profile_opencv(pixels: Pixels) -> Iterable[tuple[str, float]]:
    """Yield the kind and the milliseconds of each layer."""
    cv2.setNumThreads(1)
    cv2.dnn_superres.DnnSuperResImpl.create()  # registers its own layer, the pixel shuffle
    network = cv2.dnn.readNetFromTensorflow(str(EMBEDDED_MODEL_PATH))
    network.setInput(cv2.dnn.blobFromImage(pixels))
    network.forward()
    network.forward()
    _, ticks = network.getPerfProfile()
    # Number 0 is the input.
    for number, took in enumerate(np.ravel(ticks), start=1):
        kind = network.getLayer(number).type
        yield kind, float(took) / cv2.getTickFrequency() * 1000


def profile_openvino(pixels: Pixels) -> Iterable[tuple[str, float]]:
    """Yield the kind, with its data type and algorithm, and the milliseconds of each node."""
    openvino = import_openvino()
    core = openvino.Core()
    model = core.read_model(find_quantised(EMBEDDED_MODEL_PATH))
    request = core.compile_model(model, "CPU", {**OPTIONS, "PERF_COUNT": True})
    request = request.create_infer_request()
    for _ in range(2):
        request.set_input_tensor(openvino.Tensor(pixels[np.newaxis]))
        request.infer()
    for node in request.profiling_info:
        yield f"{node.node_type} {node.exec_type}", node.real_time.total_seconds() * 1000


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=192)
    pixels = make_pixels(parser.parse_args().side)
    for profile in (profile_opencv, profile_openvino):
        kinds: defaultdict[str, float] = defaultdict(float)
        for _ in range(RUNS):
            for kind, took in profile(pixels):
                kinds[kind] += took / RUNS
        total = sum(kinds.values())
        print(f"{profile.__name__.removeprefix('profile_')}: {total:.1f} ms")
        for kind, took in sorted(kinds.items(), key=lambda item: -item[1]):
            if took > total / 200:
                print(f"  {kind:<45}{took:8.2f} ms{100 * took / total:6.1f} %")


if __name__ == "__main__":
    main()
