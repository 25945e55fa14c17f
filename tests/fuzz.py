"""Decode 100,000 damaged images in the sandbox: a result or an error, never anything else.

    make fuzz          (python -m tests.fuzz [--inputs 100000] [--seed 1])

Real files of every kind, with bytes changed, cut, repeated and mixed. If one kills its process,
that is a valid outcome, too; such inputs are kept in a folder for reproduction.
"""

import argparse
import logging
import os
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np

from superres.errors import ServiceError
from superres.service.sandboxed_codec import SandboxedCodec
from superres.store.result_name import generate_file_hash
from testkit.kinds import KINDS
from testkit.service import read_peak_memory_mb

MAX_PIXELS = 1_000_000
BATCH = 1000
MAX_CHANGES = 12
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)


def damage(content: bytes, other: bytes, random: np.random.Generator) -> bytes:
    """Change a file in one of several ways."""
    changed = bytearray(content)
    # Headers contain sizes and types: half of all changes go there.
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


def try_decoding(codec: SandboxedCodec, content: bytes) -> str:
    """Decode as the service does; return the outcome."""
    try:
        header = codec.read_header(BytesIO(content), MAX_PIXELS)
        picture = codec.decode(BytesIO(content), header)
    except ServiceError as error:
        return error.code
    assert picture.pixels.shape[0] * picture.pixels.shape[1] == header.pixels
    return "a picture"


class Fuzzer:
    """Draws inputs, reproducibly for a seed, and tries them.

    Parameters
    ----------
    folder : where inputs that kill their process are kept
    """

    def __init__(self, seed: int, folder: Path) -> None:
        self.codec = SandboxedCodec("all")
        self.outcomes: Counter[str] = Counter()
        self._folder = folder
        self._random = np.random.default_rng(seed)
        self._files = [kind.content() for kind in KINDS.values()]

    def draw(self) -> bytes:
        """Return the next input."""
        first, second = self._random.integers(0, len(self._files), 2)
        return damage(self._files[first], self._files[second], self._random)

    def attempt(self, content: bytes) -> None:
        """Try an input."""
        deaths = self.codec.deaths
        self.outcomes[try_decoding(self.codec, content)] += 1
        # Others may have died at the same time: then one too many is kept.
        if self.codec.deaths > deaths:
            (self._folder / generate_file_hash(content)[:16]).write_bytes(content)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    fuzzer = Fuzzer(chosen.seed, folder)
    started = time.monotonic()
    # Ctrl-C stops it and reports what was found so far.
    with suppress(KeyboardInterrupt), ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in range(0, chosen.inputs, BATCH):
            batch = [fuzzer.draw() for _ in range(min(BATCH, chosen.inputs - done))]
            for attempt in [pool.submit(fuzzer.attempt, content) for content in batch]:
                attempt.result()
            if (done + BATCH) % 10_000 == 0:
                print(f"{done + BATCH} inputs, {time.monotonic() - started:.0f} s", flush=True)
    deaths, helper = fuzzer.codec.deaths, fuzzer.codec.sandbox.helper_pid
    print(
        f"{fuzzer.outcomes.total()} inputs: {dict(fuzzer.outcomes.most_common())}; "
        f"{deaths} ended their process"
        + (f" (kept in {folder})" if deaths else "")
        + f"; helper {read_peak_memory_mb(helper or 0):.0f} MB"
    )
    fuzzer.codec.sandbox.close()
    if not deaths:
        folder.rmdir()
    return 0


if __name__ == "__main__":
    sys.exit(main())
