"""Runs the model in PyTorch, on a GPU: batches of tiles, in half precision.

All batches have one shape, into whose corner tiles are put: cuDNN chooses its algorithms by shape,
and so a picture alone and in a crowd come out with the same bytes. It bounds the memory, too.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np

from superres.engines.batcher import Batcher
from superres.engines.engine import Engine, Network
from superres.engines.model_files import read_golden_tile
from superres.engines.opencv_engine import load_network, make_opencv_engine
from superres.engines.torch_network import Layers, TorchNetwork, read_convolutions
from superres.errors import ModelError
from superres.images.options import MODEL_SCALE
from superres.images.pixels import Pixels


@dataclass(frozen=True)
class BatchShape:
    """The shape of all batches: so many tiles, of at most so many pixels a side."""

    size: int
    tile: int

    @property
    def lanes(self) -> int:
        """How many tiles to have on their way: one batch is gathered while another is computed."""
        return 2 * self.size


# Half a million pixels, some ten milliseconds of a large GPU, beside which the time to launch the
# kernels is small. Not measured on one yet: `bench/gpu.py` does. A CPU, which would take seconds,
# is only for tests.
SHAPES = {"cuda": BatchShape(8, 256), "cpu": BatchShape(4, 64)}
# A lane's tile, and its result before that is copied into the picture.
LANE_BYTES = 4 * 1024**2
# Per pixel of a batch: five layers' outputs of 64 half-precision channels at a time, 27 channels as
# float32 and the result; then as much again for cuDNN's workspace.
DEVICE_BYTES_PER_PIXEL = 2 * 1024
# On the golden tile, compared with `cv2.dnn_superres`: 1 level in half precision.
LARGEST_DIFFERENCE = 3

logger = logging.getLogger(__name__)


def import_torch() -> ModuleType:
    """Return the package.

    Raises
    ------
    ModelError
        It is not installed, or the installation is incomplete.
    """
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a CUDA library that it loads
        fault = "SR_ENGINE=torch needs the extra gpu: pip install '.[gpu]'"
        raise ModelError(f"{fault} ({error})") from None
    module: ModuleType = torch
    return module


class Slot:
    """A batch's memory on the host, from which and to which a GPU copies while it computes."""

    def __init__(self, torch: ModuleType, shape: BatchShape, is_pinned: bool) -> None:
        def allocate(*shape: int, dtype: Any = torch.uint8) -> Any:
            return torch.zeros(shape, dtype=dtype, pin_memory=is_pinned)

        side = shape.tile * MODEL_SCALE
        self.pixels = allocate(shape.size, shape.tile, shape.tile, 3)
        self.sizes = allocate(shape.size, 2, dtype=torch.int64)
        self.result = allocate(shape.size, side, side, 3)


@dataclass(frozen=True)
class TorchBatch:
    """A batch in a slot; `event` is when its results are there, None if they are."""

    slot: Slot
    count: int
    event: Any

    def is_done(self) -> bool:
        """Tell whether the results are there."""
        return self.event is None or bool(self.event.query())

    def collect(self) -> list[Pixels]:
        """Wait for the results and return them."""
        if self.event is not None:
            self.event.synchronize()
        results = self.slot.result.numpy()
        return [
            results[index, : MODEL_SCALE * height, : MODEL_SCALE * width].copy()
            for index, (height, width) in enumerate(self.slot.sizes[: self.count].tolist())
        ]


class TorchModel:
    """A model that computes batches of one shape on a device: a `BatchModel`.

    Parameters
    ----------
    layers : see `read_convolutions`
    device : cuda or cpu
    """

    def __init__(self, torch: ModuleType, layers: Layers, device: str, shape: BatchShape) -> None:
        # Otherwise cuDNN would choose algorithms by timing them, and some add in any order.
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        self.batch_size = shape.size
        self._torch = torch
        self._device = device
        # Half precision is what GPUs are fast at, and CPUs slow.
        dtype = torch.float16 if device == "cuda" else torch.float32
        self._network = TorchNetwork(torch, layers, device, dtype)
        self._slots = [Slot(torch, shape, device == "cuda") for _ in range(2)]

    def start(self, tiles: Sequence[Pixels]) -> TorchBatch:
        """Start to compute tiles, (H, W, 3) uint8, BGR."""
        torch = self._torch
        self._slots.reverse()
        slot = self._slots[0]
        pixels = slot.pixels.numpy()
        for index, tile in enumerate(tiles):
            height, width = tile.shape[:2]
            pixels[index, :height, :width] = tile
            slot.sizes[index, 0], slot.sizes[index, 1] = height, width
        with torch.inference_mode():
            given = (each.to(self._device, non_blocking=True) for each in (slot.pixels, slot.sizes))
            slot.result.copy_(self._network(*given), non_blocking=True)
        event = None
        if self._device == "cuda":
            event = torch.cuda.Event(blocking=True)
            event.record()
        return TorchBatch(slot, len(tiles), event)


def describe_device(torch: ModuleType, device: str) -> str:
    """Return everything about a device that changes results: part of their names."""
    if device == "cpu":
        return f"{torch.__version__} cpu"
    name = torch.cuda.get_device_name()
    return f"{torch.__version__} cudnn {torch.backends.cudnn.version()} {name} half"


def find_device_fault(torch: ModuleType, device: str) -> str | None:
    """Return why a device cannot be used; None if it can."""
    if device == "cpu":
        return None
    if not torch.cuda.is_available():
        return "PyTorch finds no GPU"
    shape = SHAPES[device]
    needed = shape.size * shape.tile**2 * DEVICE_BYTES_PER_PIXEL
    free, _ = torch.cuda.mem_get_info()
    if free < needed:
        return f"{free >> 20} MB of the GPU's memory are free, of {needed >> 20} that it needs"
    return None


def find_result_fault(network: Network, exact: Network) -> str | None:
    """Return what is wrong with a network's results; None if they are as OpenCV's."""
    golden_input, _ = read_golden_tile()
    difference = int(np.abs(network(golden_input).astype(np.int16) - exact(golden_input)).max())
    if difference > LARGEST_DIFFERENCE:
        return f"its golden tile is {difference} levels from OpenCV's"
    return None


def choose_torch_engine(model_path: Path, device: str) -> Engine:
    """Return PyTorch if it works on this machine, otherwise OpenCV.

    Parameters
    ----------
    device : cuda or cpu

    Raises
    ------
    ModelError
        PyTorch is not installed, or the model is another network.
    """
    torch = import_torch()
    exact = make_opencv_engine(model_path)
    shape = SHAPES[device]
    layers = read_convolutions(model_path)
    cv2.setNumThreads(1)
    try:
        fault = find_device_fault(torch, device)
        if fault is None:
            batcher = Batcher(TorchModel(torch, layers, device, shape))
            fault = find_result_fault(batcher, load_network(model_path))
            if fault is not None:
                batcher.close()  # and give its memory back
            variant = f"{describe_device(torch, device)} batch {shape.size}"
    except Exception as error:
        # Whatever a driver, a library or a sandbox does not allow.
        logger.error("PyTorch fails: %s", " ".join(str(error).split()))
        fault = "it fails; the log says how"
    if fault is not None:
        logger.warning("PyTorch is not used on this machine: %s", fault)
        return replace(exact, fallback_reason=f"torch is not used: {fault}")
    profile = replace(
        exact.profile,
        engine="torch",
        variant=variant,
        tile=shape.tile,
        lane_bytes=LANE_BYTES,
        golden_tolerance=LARGEST_DIFFERENCE,
    )
    # Wall-clock time: the GPU's is none of a thread's.
    return Engine(lambda _: batcher, profile, time.perf_counter, shape.lanes, spare=exact)
