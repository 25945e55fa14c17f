"""An embedded model with 8-bit weights and activations, for OpenVINO.

    python3 -m venv .venv-openvino && .venv-openvino/bin/pip install --upgrade pip
    .venv-openvino/bin/pip install --editable '.[openvino]' --group training --group quantize
    .venv-openvino/bin/python -m training.quantize superres/models/EDSR_x3.pb \
        superres/models/EDSR_x3_int8.xml --photos PHOTOS --index PHOTOS/index.csv

and for the restoring model, EDSR_x3_restore.pb and EDSR_x3_restore_int8.xml with `--damaged`.

Post-training quantisation with NNCF, with the largest values seen as ranges: its default ranges
clip, by up to 74 levels of 255. The additions, the first and last convolution and the
nearest-neighbour branch stay float32. Before that, channels are equalised: the weights of adjacent
layers are rescaled, which changes nothing in float32, so that all channels use their 8 bits
(Data-Free Quantization Through Weight Equalization and Bias Correction, Nagel et al., ICCV 2019).
"""

import argparse
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nncf
import numpy as np
import openvino
from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix
from nncf.quantization.range_estimator import RangeEstimatorParametersSet
from openvino import Model, Node, Type
from openvino import opset13 as ops
from PIL import Image

from training.damage import damage_badly
from training.degradations import degrade_at_random
from training.drawings import draw_picture
from training.export import add_digests, build_graph, read_weights
from training.network import CHANNELS, MEAN_BGR, Floats, count_blocks
from training.prepare import read_splits

CROP_SIDE = 384
DRAWN_SIDE = 128
DRAWINGS = 12
# One training photograph in this many: using more does not change the ranges.
PHOTOS_EVERY = 4
DAMAGE_LEVELS = (0.35, 1.3)
# Noise and patterns of full contrast drive activations to three to five times those of photographs;
# ranges wide enough for them cost all images 0.05 dB; at half contrast, 0.004 dB.
PATTERN_CONTRAST = 0.5
MEAN = np.array(MEAN_BGR, np.float32)


def draw_patterns(random: np.random.Generator) -> Iterator[Floats]:
    """Yield noise and a chequerboard, (H, W, 3), of reduced contrast."""
    size = (DRAWN_SIDE, DRAWN_SIDE)
    row, column = np.indices(size)
    patterns = (
        random.integers(0, 256, (*size, 3)),
        random.integers(0, 2, (*size, 3)) * 255,
        np.dstack([random.integers(0, 2, size) * 255] * 3),
        np.dstack([(row + column) % 2 * 255] * 3),
    )
    for pattern in patterns:
        yield (127.5 + (pattern - 127.5) * PATTERN_CONTRAST).astype(np.float32)


def crop_at_random(photo: Image.Image, random: np.random.Generator) -> Image.Image:
    """Return a square of a photograph."""
    left, top = (int(random.integers(0, side - CROP_SIDE + 1)) for side in photo.size)
    return photo.crop((left, top, left + CROP_SIDE, top + CROP_SIDE))


def make_inputs(photos: Path, index: Path | None, damaged: bool) -> list[Floats]:
    """Return the calibration inputs, (1, H, W, 3), from training photographs only.

    Parameters
    ----------
    damaged : whether another crop of each photograph is damaged badly
    """
    random = np.random.default_rng(0)
    training = [path for path, split in read_splits(photos, index).items() if split == "train"]
    pictures: list[Floats] = []
    for path in training[::PHOTOS_EVERY]:
        photo = Image.open(path).convert("RGB")
        crop = crop_at_random(photo, random)
        pictures.append(np.asarray(degrade_at_random(crop, random), np.float32)[:, :, ::-1])
        if damaged:
            truth = np.ascontiguousarray(np.asarray(crop_at_random(photo, random))[:, :, ::-1])
            level = random.uniform(*DAMAGE_LEVELS)
            pictures.append(damage_badly(truth, random, level).astype(np.float32))
    for _ in range(DRAWINGS):
        pictures.append(np.asarray(draw_picture(DRAWN_SIDE, random), np.float32)[:, :, ::-1])
    pictures.extend(draw_patterns(random))
    return [np.ascontiguousarray(picture - MEAN)[np.newaxis] for picture in pictures]


def list_convolutions(model: Model, in_body: bool) -> list[Node]:
    """Return the convolutions from 64 to 64 channels in order, or all others.

    Found by the shapes of their weights: OpenVINO renames nodes when it reads a .pb.
    """
    return [
        node
        for node in model.get_ordered_ops()
        if node.get_type_name() == "Convolution"
        and (tuple(node.input(1).get_shape())[:2] == (CHANNELS, CHANNELS)) == in_body
    ]


def measure_peaks(weights: dict[str, Floats], inputs: list[Floats]) -> list[Floats]:
    """Return the largest absolute input of each channel, for each convolution of the body."""
    model = read_graph(weights)
    sources = [node.input(0).get_source_output() for node in list_convolutions(model, True)]
    model.add_outputs(sources)
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    peaks = [np.zeros(CHANNELS, np.float32) for _ in sources]
    for picture in inputs:
        outputs = compiled([picture])
        for index, peak in enumerate(peaks):
            np.maximum(peak, np.abs(outputs[index + 1][0]).max(axis=(1, 2)), out=peak)
    return peaks


def read_graph(weights: dict[str, Floats]) -> Model:
    """Return the network as read by OpenVINO from a .pb."""
    with tempfile.NamedTemporaryFile(suffix=".pb") as file:
        file.write(build_graph(weights).SerializeToString(deterministic=True))
        file.flush()
        return openvino.Core().read_model(file.name)


def balance(peaks: Floats, weights: Floats) -> Floats:
    """Return what to divide each channel by, so that values and weights share the imbalance."""
    factors = np.sqrt(peaks / weights)
    factors = np.maximum(factors, 1e-3 * factors.max())
    return np.asarray(factors / np.exp(np.log(factors).mean()), np.float32)


def equalise(weights: dict[str, Floats], peaks: list[Floats]) -> None:
    """Rescale channels in place; the network's results stay the same, up to rounding.

    The channels that the residual blocks add to have one factor each throughout the network; those
    between the two convolutions of a block have their own, which pass through the ReLU.
    """
    blocks = [f"block{index:02d}" for index in range(count_blocks(weights))]
    readers = [f"{block}_conv1" for block in blocks] + ["body_end"]

    def divide_outputs(name: str, factors: Floats) -> None:
        weights[f"{name}_weight"] = weights[f"{name}_weight"] / factors[:, None, None, None]
        weights[f"{name}_bias"] = weights[f"{name}_bias"] / factors

    def multiply_inputs(name: str, factors: Floats) -> None:
        weights[f"{name}_weight"] = weights[f"{name}_weight"] * factors[None, :, None, None]

    def largest_weights(name: str) -> Floats:
        return np.asarray(np.abs(weights[f"{name}_weight"]).max(axis=(0, 2, 3)))

    shares = [peak / peak.max() for peak in peaks[::2]]
    weight_shares = [largest_weights(name) / largest_weights(name).max() for name in readers]
    residual = balance(np.max(shares, axis=0), np.max(weight_shares, axis=0))
    for name in ("head", "body_end", *(f"{block}_conv2" for block in blocks)):
        divide_outputs(name, residual)
    for name in (*readers, "upsample"):
        multiply_inputs(name, residual)
    for block, peak in zip(blocks, peaks[1::2], strict=True):
        hidden = balance(peak, largest_weights(f"{block}_conv2"))
        divide_outputs(f"{block}_conv1", hidden)
        multiply_inputs(f"{block}_conv2", hidden)


def quantise(model: Model, inputs: list[Floats]) -> Model:
    """Return the network with the convolutions of its body in 8 bits."""
    largest = RangeEstimatorParametersSet.MINMAX
    in_float = [node.get_friendly_name() for node in list_convolutions(model, False)]
    quantised: Model = nncf.quantize(
        model,
        nncf.Dataset(inputs),
        preset=nncf.QuantizationPreset.PERFORMANCE,
        subset_size=len(inputs),
        ignored_scope=nncf.IgnoredScope(names=in_float, types=["Add"], validate=False),
        advanced_parameters=AdvancedQuantizationParameters(
            # The fix is for processors without VNNI, where the service does not use 8 bits anyway:
            # they fail the golden tile.
            overflow_fix=OverflowFix.DISABLE,
            activations_range_estimator_params=largest,
            weights_range_estimator_params=largest,
        ),
    )
    return quantised


def take_pixels(network: Model) -> Model:
    """Return the network with (1, H, W, 3) uint8, BGR, as its input.

    The output is unchanged, without the mean: adding and rounding in the graph would take as long
    as the network itself.
    """
    pixels = ops.parameter([1, -1, -1, 3], Type.u8, "pixels")
    centred = ops.subtract(ops.convert(pixels, "f32"), ops.constant(MEAN.reshape(1, 1, 1, 3)))
    parameter = network.get_parameters()[0]
    for reader in parameter.output(0).get_target_inputs():
        reader.replace_source_output(centred.output(0))
    return Model(network.get_results(), [pixels], "EDSR x3, 8 bits")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", type=Path, help="the .pb that training.export wrote")
    parser.add_argument("output", type=Path, help="the .xml to write, with a .bin next to it")
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--index", type=Path)
    parser.add_argument("--damaged", action="store_true", help="for a restoring model")
    arguments = parser.parse_args()

    inputs = make_inputs(arguments.photos, arguments.index, arguments.damaged)
    weights = read_weights(arguments.model)
    equalise(weights, measure_peaks(weights, inputs))
    model = take_pixels(quantise(read_graph(weights), inputs))
    # The service uses it only with this .pb.
    digest = hashlib.sha256(arguments.model.read_bytes()).hexdigest()
    model.set_rt_info(digest, ["source_sha256"])
    model.set_rt_info(" ".join(map(str, MEAN_BGR)), ["mean_bgr"])
    openvino.save_model(model, arguments.output, compress_to_fp16=False)
    add_digests([arguments.output, arguments.output.with_suffix(".bin")])


if __name__ == "__main__":
    main()
