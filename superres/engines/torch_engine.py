"""Runs the model in PyTorch, on a GPU: batches of tiles, in half precision.

All batches have one shape, into whose corner tiles are put: cuDNN chooses its algorithms by shape,
and so a picture alone and in a crowd come out with the same bytes. It bounds the memory, too.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from superres.engines.batcher import Batcher
from superres.engines.engine import Engine, Network
from superres.engines.model_files import read_golden_tile
from superres.engines.opencv_engine import load_network, make_opencv_engine
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

# What `cv2.dnn_superres` subtracts before an EDSR and adds after it: blue, green, red.
MEAN_BGR = (103.1545782, 111.561547, 114.35629928)

Floats = npt.NDArray[np.float32]

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


def read_convolutions(model_path: Path) -> dict[str, tuple[Floats, Floats]]:
    """Read the 3x3 convolutions of a graph that `training/export.py` wrote.

    Returns
    -------
    Name -> weight (O, I, 3, 3) and bias (O,), in the order of the graph

    Raises
    ------
    ModelError
        It is another network.
    """
    layers = {}
    try:
        net = cv2.dnn.readNetFromTensorflow(str(model_path))
        for layer in net.getLayerNames():
            name, _, kind = layer.partition("/")
            if kind == "conv":
                weight, bias = (np.asarray(net.getParam(layer, n), np.float32) for n in (0, 1))
                layers[name] = weight, bias.ravel()
    except cv2.error:
        layers = {}
    blocks = (len(layers) - 4) // 2
    in_blocks = [f"block{index:02d}_conv{part}" for index in range(blocks) for part in (1, 2)]
    if [*layers] != ["nearest", "head", *in_blocks, "body_end", "upsample"]:
        raise ModelError(
            f"SR_ENGINE=torch works with the embedded models' network only, which {model_path} "
            "is not"
        )
    return layers


class TorchNetwork:
    """The network of `training/network.py` on a device.

    Parameters
    ----------
    layers : see `read_convolutions`
    device, dtype : where, and in which precision
    """

    def __init__(
        self,
        torch: ModuleType,
        layers: Mapping[str, tuple[Floats, Floats]],
        device: str,
        dtype: Any,
    ) -> None:
        self._torch = torch
        self._kind = {"device": torch.device(device), "dtype": dtype}
        self._layers = {
            name: (
                torch.from_numpy(weight).to(**self._kind, memory_format=torch.channels_last),
                torch.from_numpy(bias).to(**self._kind),
            )
            for name, (weight, bias) in layers.items()
            # The input itself, which is added as it is.
            if name != "nearest"
        }
        self._blocks = (len(self._layers) - 3) // 2
        self._mean = torch.tensor(MEAN_BGR, **self._kind).view(1, 3, 1, 1)

    def __call__(self, pixels: Any, sizes: Any) -> Any:
        """Upscale a batch.

        Each convolution must see zeros beyond a tile's edge, as it does in OpenCV.

        Parameters
        ----------
        pixels : (N, H, W, 3) uint8, BGR; beyond the tiles' sizes, anything
        sizes : (N, 2) int64, height and width of each tile

        Returns
        -------
        (N, 3 H, 3 W, 3) uint8
        """
        torch = self._torch
        count, height, width, _ = pixels.shape
        rows, columns = (torch.arange(side, device=pixels.device) for side in (height, width))
        is_inside = (rows < sizes[:, :1]).unsqueeze(2) & (columns < sizes[:, 1:]).unsqueeze(1)
        inside = is_inside.unsqueeze(1).to(**self._kind)

        def convolve(name: str, x: Any) -> Any:
            return torch.nn.functional.conv2d(x, *self._layers[name], padding=1)

        # A permuted NHWC array is what channels_last means.
        x = (pixels.permute(0, 3, 1, 2).to(**self._kind) - self._mean) * inside
        head = convolve("head", x).mul_(inside)
        y = head
        for index in range(self._blocks):
            hidden = convolve(f"block{index:02d}_conv1", y).relu_().mul_(inside)
            y = torch.addcmul(y, convolve(f"block{index:02d}_conv2", hidden), inside)
        detail = convolve("upsample", torch.addcmul(head, convolve("body_end", y), inside))
        # TensorFlow's DepthToSpace: channels ordered row, column, colour.
        grid = detail.permute(0, 2, 3, 1).float().view(count, height, width, MODEL_SCALE**2, 3)
        levels = (grid + pixels.unsqueeze(3)).round_().clamp_(0, 255).to(torch.uint8)
        return (
            levels.view(count, height, width, MODEL_SCALE, MODEL_SCALE, 3)
            .permute(0, 1, 3, 2, 4, 5)
            .reshape(count, height * MODEL_SCALE, width * MODEL_SCALE, 3)
        )


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
    device : cuda or cpu
    """

    def __init__(self, torch: ModuleType, model_path: Path, device: str, shape: BatchShape) -> None:
        # Otherwise cuDNN would choose algorithms by timing them, and some add in any order.
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        self.batch_size = shape.size
        self._torch = torch
        self._device = device
        # Half precision is what GPUs are fast at, and CPUs slow.
        dtype = torch.float16 if device == "cuda" else torch.float32
        self._network = TorchNetwork(torch, read_convolutions(model_path), device, dtype)
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
    read_convolutions(model_path)
    cv2.setNumThreads(1)
    try:
        fault = find_device_fault(torch, device)
        if fault is None:
            batcher = Batcher(TorchModel(torch, model_path, device, shape))
            fault = find_result_fault(batcher, load_network(model_path))
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
