"""Runs the command-line client as a user does, and draws images for it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from testkit.waiting import WAIT_SECONDS


def draw(path: Path, seed: int, side: int = 48) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).resize((side, side)).save(path)
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "superres", "enhance", *(str(each) for each in arguments)]


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )


def names_in(folder: Path) -> set[str]:
    """Return the paths of all files below a folder, hidden ones too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
