"""Decode 100,000 damaged pictures: a result or an error of the service, never anything else.

    make fuzz          (python -m tests.fuzz [--inputs 100000] [--seed 1])

Real files of every kind, with bytes changed, cut, repeated and mixed. The last input is kept in a
file, so that a crash of a decoder can be repeated.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np

from errors import ServiceError
from image_codec import decode_image, read_header
from tests.test_fidelity import KINDS

MAX_PIXELS = 1_000_000
# Far more than these small pictures need, far less than a bomb takes.
MEMORY_BYTES = 3 * 1024**3
MAX_CHANGES = 12
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)


def damage(content: bytes, other: bytes, random: np.random.Generator) -> bytes:
    """Change a file in one of several ways."""
    changed = bytearray(content)
    # Headers are where sizes and types stand: half of all changes go there.
    reach = len(changed) if random.random() < 0.5 else min(len(changed), 256)
    for position in random.integers(0, reach, random.integers(1, MAX_CHANGES)):
        value = random.choice(INTERESTING) if random.random() < 0.3 else random.integers(0, 256)
        changed[position] = int(value)
    way = random.integers(0, 6)
    if way == 0:
        del changed[random.integers(1, len(changed) + 1) :]
    elif way == 1:
        start, length = int(random.integers(0, len(changed))), int(random.integers(1, 64))
        changed[start:start] = changed[start : start + length]
    elif way == 2:
        start = int(random.integers(0, min(len(changed), len(other))))
        changed[start : start + 64] = other[start : start + 64]
    elif way == 3:
        start = int(random.integers(0, len(changed)))
        del changed[start : start + int(random.integers(1, 64))]
    return bytes(changed)


def try_decoding(content: bytes) -> str:
    """Decode as the service does; return what came of it."""
    try:
        header = read_header(BytesIO(content), MAX_PIXELS)
        picture = decode_image(BytesIO(content), "all")
    except ServiceError as error:
        return error.code
    assert picture.pixels.shape[0] * picture.pixels.shape[1] == header.pixels
    return "a picture"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    random = np.random.default_rng(chosen.seed)
    files = [kind.content() for kind in KINDS.values()]
    last = Path(tempfile.gettempdir()) / "last-fuzz-input"
    outcomes: Counter[str] = Counter()
    started = time.monotonic()
    for number in range(chosen.inputs):
        first, second = random.integers(0, len(files), 2)
        content = damage(files[first], files[second], random)
        last.write_bytes(content)
        outcomes[try_decoding(content)] += 1
        if number % 10_000 == 9_999:
            print(f"{number + 1} inputs, {time.monotonic() - started:.0f} s", flush=True)
    last.unlink()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(f"{dict(outcomes.most_common())}; peak memory {peak:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
