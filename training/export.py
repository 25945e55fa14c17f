"""Weights <-> frozen TensorFlow GraphDef, as ``cv2.dnn_superres`` reads it.

    python -m training.export WEIGHTS.npz superres/models/EDSR_x3.pb

writes the graph, a golden tile (input and the network's own output, which the
service checks at startup), and their lines of SHA256SUMS next to it.

What OpenCV's importer needs, each point found by trial and error:
- the mean stays outside the graph, dnn_superres subtracts and adds it itself;
  the input range goes into the first and last convolution instead;
- DepthToSpace reads the 27 channels as row, column, colour, PyTorch as colour,
  row, column;
- the nearest-neighbour skip is a fixed convolution from the input to the 27
  channels, added before DepthToSpace.
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboard.compat.proto.attr_value_pb2 import AttrValue
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT, DT_INT32

from superres.paths import MODEL_FILE_NAME
from training.network import (
    INPUT_RANGE,
    SCALE,
    Floats,
    Weights,
    count_blocks,
    forward,
    layer_shapes,
)

GOLDEN_TILE_SIZE = 24
GRAPH_PRODUCER = 27  # a GraphDef version that every importer accepts


class GraphWriter:
    """Adds nodes to a GraphDef; each method returns the name of the node it added."""

    def __init__(self) -> None:
        self.graph = GraphDef()
        self.graph.versions.producer = GRAPH_PRODUCER

    def add(self, op: str, name: str, *inputs: str, **attributes: AttrValue) -> str:
        """Add one float32 node."""
        node = self.graph.node.add(op=op, name=name, input=inputs)
        node.attr["T"].type = DT_FLOAT
        for key, value in attributes.items():
            node.attr[key].CopyFrom(value)
        return name

    def constant(self, name: str, values: np.ndarray) -> str:
        """Add a constant of float32 or int32 values."""
        dtype = DT_FLOAT if values.dtype == np.float32 else DT_INT32
        node = self.graph.node.add(op="Const", name=name)
        node.attr["dtype"].type = dtype
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in values.shape])
        tensor = TensorProto(dtype=dtype, tensor_shape=shape, tensor_content=values.tobytes())
        node.attr["value"].tensor.CopyFrom(tensor)
        return name

    def placeholder(self, name: str) -> str:
        """Add the input: a batch of images of any size, channels last."""
        node = self.graph.node.add(op="Placeholder", name=name)
        node.attr["dtype"].type = DT_FLOAT
        node.attr["shape"].shape.CopyFrom(
            TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in (-1, -1, -1, 3)])
        )
        return name

    def convolution(self, name: str, x: str, weight: Floats, bias: Floats) -> str:
        """Add a 3x3 convolution of stride 1; `weight` is (out, in, 3, 3)."""
        kernel = self.constant(f"{name}/kernel", np.ascontiguousarray(weight.transpose(2, 3, 1, 0)))
        conv = self.add(
            "Conv2D",
            f"{name}/conv",
            x,
            kernel,
            strides=AttrValue(list=AttrValue.ListValue(i=[1, 1, 1, 1])),
            padding=AttrValue(s=b"SAME"),
            data_format=AttrValue(s=b"NHWC"),
        )
        return self.add("BiasAdd", name, conv, self.constant(f"{name}/bias", bias))


def depth_to_space_order() -> np.ndarray:
    """Return the permutation from colour, row, column to row, column, colour."""
    return np.arange(3 * SCALE * SCALE).reshape(3, SCALE, SCALE).transpose(1, 2, 0).ravel()


def build_graph(weights: Weights) -> GraphDef:
    """Turn a set of weights, named as in `layer_shapes`, into a frozen graph."""
    writer = GraphWriter()

    def convolution(name: str, x: str, weight_factor: float = 1.0, bias_factor: float = 1.0) -> str:
        weight = (weights[f"{name}_weight"] * weight_factor).astype(np.float32)
        bias = (weights[f"{name}_bias"] * bias_factor).astype(np.float32)
        if name == "upsample":
            weight, bias = weight[depth_to_space_order()], bias[depth_to_space_order()]
        return writer.convolution(name, x, weight, bias)

    pixels = writer.placeholder("input")
    head = convolution("head", pixels, weight_factor=1 / INPUT_RANGE)
    y = head
    for index in range(count_blocks(weights)):
        block = f"block{index:02d}"
        hidden = writer.add("Relu", f"{block}_relu", convolution(f"{block}_conv1", y))
        y = writer.add("Add", f"{block}_add", y, convolution(f"{block}_conv2", hidden))
    body = writer.add("Add", "body_add", convolution("body_end", y), head)
    detail = convolution("upsample", body, INPUT_RANGE, INPUT_RANGE)

    centre_tap = np.zeros((3 * SCALE * SCALE, 3, 3, 3), np.float32)
    for channel in range(len(centre_tap)):
        centre_tap[channel, channel % 3, 1, 1] = 1
    nearest = writer.convolution(
        "nearest", pixels, centre_tap, np.zeros(len(centre_tap), np.float32)
    )
    shuffled = writer.add(
        "DepthToSpace",
        "shuffle",
        writer.add("Add", "detail_add", detail, nearest),
        block_size=AttrValue(i=SCALE),
        data_format=AttrValue(s=b"NHWC"),
    )
    order = writer.constant("NCHW_order", np.array([0, 3, 1, 2], np.int32))
    writer.add("Transpose", "NCHW_output", shuffled, order, Tperm=AttrValue(type=DT_INT32))
    return writer.graph


def read_weights(path: Path) -> dict[str, Floats]:
    """Read weights back from a graph made by `build_graph`."""
    graph = GraphDef.FromString(path.read_bytes())
    constants = {}
    for node in graph.node:
        if node.op == "Const" and node.attr["dtype"].type == DT_FLOAT:
            tensor = node.attr["value"].tensor
            shape = [dim.size for dim in tensor.tensor_shape.dim]
            constants[node.name] = np.frombuffer(tensor.tensor_content, np.float32).reshape(shape)

    blocks = sum(name.endswith("_conv1/kernel") for name in constants)
    weights = {}
    for name in layer_shapes(blocks):
        weight = constants[f"{name}/kernel"].transpose(3, 2, 0, 1)
        bias = constants[f"{name}/bias"]
        if name == "head":
            weight = weight * np.float32(INPUT_RANGE)
        if name == "upsample":
            order = np.argsort(depth_to_space_order())
            weight, bias = weight[order] / INPUT_RANGE, bias[order] / INPUT_RANGE
        weights[f"{name}_weight"] = np.ascontiguousarray(weight, np.float32)
        weights[f"{name}_bias"] = np.ascontiguousarray(bias, np.float32)
    return weights


def draw_golden_input() -> np.ndarray:
    """Draw a small image with a gradient, edges, a line and noise: (H, W, 3) uint8, BGR."""
    size = GOLDEN_TILE_SIZE
    row, column = np.mgrid[:size, :size]
    image = np.stack([row * 10, column * 10, 255 - row * 5 - column * 5], axis=2)
    image[size // 2 :, : size // 2] = (30, 60, 220)
    image[row == column] = 255
    noise = np.random.default_rng(0).integers(0, 256, (size // 3, size // 3, 3))
    image[: size // 3, -(size // 3) :] = noise
    return image.astype(np.uint8)


def write_model(weights: Weights, model_path: Path) -> None:
    """Write the graph, and next to it the golden tile's two images and lines of SHA256SUMS.

    The output of `EDSR_x3_restore.pb` is `golden_output_restore.png`.
    """
    model_path.write_bytes(build_graph(weights).SerializeToString(deterministic=True))
    golden_input = draw_golden_input()
    output_name = f"golden_output{model_path.stem.removeprefix(Path(MODEL_FILE_NAME).stem)}"
    pictures = {"golden_input": golden_input, output_name: forward(weights, golden_input)}
    paths = [model_path]
    for name, pixels in pictures.items():
        paths.append(model_path.with_name(f"{name}.png"))
        Image.fromarray(np.ascontiguousarray(pixels[:, :, ::-1])).save(paths[-1])
    add_digests(paths)


def add_digests(paths: list[Path]) -> None:
    """Add files to the SHA256SUMS next to them."""
    sums = paths[0].with_name("SHA256SUMS")
    lines = sums.read_text().splitlines() if sums.exists() else []
    digests = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    digests |= {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    sums.write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items())))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "weights", type=Path, help=".npz of arrays, or a .pb that this module wrote"
    )
    parser.add_argument("model", type=Path, help="the .pb to write")
    arguments = parser.parse_args()
    if arguments.weights.suffix == ".pb":
        weights = read_weights(arguments.weights)
    else:
        with np.load(arguments.weights) as arrays:
            weights = dict(arrays)
    write_model(weights, arguments.model)


if __name__ == "__main__":
    main()
