"""Facts about the machine, to report with each measurement."""

import platform
import time
from pathlib import Path

import cv2
import numpy as np

from superres import machine
from training.network import SCALE, layer_shapes

MATRIX_SIDE = 2048
# CPU features that decide how fast a network runs.
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_int8")


def read_cpu_field(name: str) -> str:
    """Return a field of the first CPU in /proc/cpuinfo, or an empty string."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def measure_matrix_gigaflops() -> float:
    """Return the peak rate of a large float32 matrix product on all CPUs."""
    random = np.random.default_rng(0)
    left, right = (random.random((MATRIX_SIDE, MATRIX_SIDE), np.float32) for _ in range(2))
    best = 0.0
    for _ in range(10):
        started = time.perf_counter()
        left @ right
        best = max(best, 2 * MATRIX_SIDE**3 / (time.perf_counter() - started) / 1e9)
    return best


def count_network_flops() -> int:
    """Return the embedded network's floating-point operations per input pixel.

    A 3x3 convolution takes 9 multiplications and as many additions per pair of channels; the
    nearest-neighbour branch is a convolution from 3 channels to 27.
    """
    nearest = 3 * (3 * SCALE * SCALE)
    return 18 * (nearest + sum(given * made for made, given in layer_shapes().values()))


def describe_machine() -> dict[str, object]:
    """Return the machine's description."""
    flags = read_cpu_field("flags").split()
    return {
        "cpu": read_cpu_field("model name") or platform.machine(),
        "cpus": machine.count_cpus(),
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in flags],
        "memory_gb": round(machine.available_memory_bytes() / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "opencv": cv2.__version__,
        "numpy": np.__version__,
    }
