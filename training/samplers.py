"""Draws training batches: for the faithful model from crops, for the restoring one from pairs."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from superres.images.pixels import Pixels
from training.degradations import FILTER_NAMES, JPEG_QUALITIES, JPEG_SHARE, degrade_at_random
from training.network import SCALE
from training.tensor_degradations import compress, reduce

# Crops are degraded with this many input pixels around them, and cut at a random position, so that
# JPEG blocks and filter borders fall anywhere.
MARGIN = 8
# How often new shards are looked for.
BATCHES_A_LOOK = 500


def to_tensor(image: Image.Image) -> Tensor:
    """Return (3, H, W) BGR uint8."""
    return torch.from_numpy(np.ascontiguousarray(np.asarray(image)[:, :, ::-1].transpose(2, 0, 1)))


class Sampler(Protocol):
    """Draws batches."""

    def draw_batch(self, size: int, side: int) -> tuple[Tensor, Tensor]:
        """Return (N, 3, side, side) inputs and their targets, float32 from 0 to 255."""


class CropSampler:
    """Draws batches for the faithful model from packed crops."""

    def __init__(self, crops: list[Image.Image], seed: int) -> None:
        self.crops = crops
        self.random = np.random.default_rng(seed)

    def draw_pair(self, side: int) -> tuple[Tensor, Tensor]:
        """Return an input of `side` pixels and its target, turned and flipped at random."""
        random = self.random
        crop = self.crops[random.integers(len(self.crops))]
        outer = (side + MARGIN) * SCALE
        left, top = random.integers(0, crop.width - outer + 1, 2)
        region = crop.crop((left, top, left + outer, top + outer))
        turn = int(random.integers(0, 8))
        if turn >= 4:
            region = region.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        region = region.rotate(90 * (turn % 4))
        small = degrade_at_random(region, random)
        x, y = (int(value) for value in random.integers(0, MARGIN + 1, 2))
        target = region.crop((x * SCALE, y * SCALE, (x + side) * SCALE, (y + side) * SCALE))
        return to_tensor(small.crop((x, y, x + side, y + side))), to_tensor(target)

    def draw_batch(self, size: int, side: int) -> tuple[Tensor, Tensor]:
        """Return (N, 3, side, side) inputs and their targets, float32 from 0 to 255."""
        inputs, targets = zip(*(self.draw_pair(side) for _ in range(size)), strict=True)
        return torch.stack(inputs).float(), torch.stack(targets).float()


def make_placer(device: torch.device) -> Callable[[np.ndarray], Tensor]:
    """Return what moves a constant to a GPU, without waiting for what that does."""
    return lambda constant: torch.from_numpy(constant).to(device, non_blocking=True)


def cut_alike(
    inputs: Tensor, targets: Tensor, side: int, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Cut inputs and their targets at one random place, and turn and flip them alike.

    (..., H, W, 3) -> (..., 3, side, side), the targets three times as large; float32
    """
    y, x = random.integers(0, inputs.shape[-3] - side + 1, 2)
    turn, flip = int(random.integers(4)), random.random() < 0.5
    cut = []
    for images, scale in ((inputs, 1), (targets, SCALE)):
        rows = slice(y * scale, (y + side) * scale)
        columns = slice(x * scale, (x + side) * scale)
        part = images[..., rows, columns, :].movedim(-1, -3).float()
        part = torch.rot90(part, turn, (-2, -1))
        cut.append(part.flip(-1) if flip else part)
    return cut[0], cut[1]


class TensorSampler:
    """Draws batches for the faithful model on a GPU, where all crops are, and are degraded."""

    def __init__(self, crops: list[Image.Image], seed: int, device: torch.device) -> None:
        self.random = np.random.default_rng(seed)
        self.place = make_placer(device)
        self.crops = torch.stack([to_tensor(crop) for crop in crops]).to(device)

    def draw_batch(self, size: int, side: int) -> tuple[Tensor, Tensor]:
        """Return (N, 3, side, side) inputs and their targets, float32 from 0 to 255, BGR."""
        random = self.random
        chosen = self.place(random.integers(len(self.crops), size=size))
        targets = self.crops[chosen].float().flip(1)  # RGB
        targets = torch.rot90(targets, int(random.integers(4)), (2, 3))
        if random.random() < 0.5:
            targets = targets.flip(3)
        name = random.choice(FILTER_NAMES)
        inputs = reduce(targets, str(name), self.place)
        number = int(random.binomial(size, JPEG_SHARE))
        if number:
            qualities = random.integers(*JPEG_QUALITIES, size=number).astype(np.float32)
            damaged = compress(inputs[:number], qualities, random.random() < 0.5, self.place)
            inputs = torch.cat([damaged, inputs[number:]])
        # JPEG blocks and filter borders fall anywhere.
        y, x = (int(value) for value in random.integers(0, inputs.shape[2] - side + 1, 2))
        inputs = inputs[:, :, y : y + side, x : x + side]
        y, x, side = y * SCALE, x * SCALE, side * SCALE
        return inputs.flip(1), targets[:, :, y : y + side, x : x + side].flip(1)


def read_shards(paths: Iterable[Path]) -> list[tuple[Pixels, Pixels]]:
    """Return the inputs and targets of each shard."""
    shards = []
    for path in paths:
        with np.load(path) as shard:
            shards.append((shard["inputs"], shard["targets"]))
    return shards


class TensorPairSampler:
    """Draws batches for the restoring model on a GPU, where all pairs are."""

    def __init__(self, folder: Path, seed: int, device: torch.device) -> None:
        self.random = np.random.default_rng(seed)
        self.place = make_placer(device)
        inputs, targets = zip(*read_shards(sorted(folder.glob("*.npz"))), strict=True)
        self.inputs, self.targets = (
            torch.cat([torch.from_numpy(part).to(device) for part in parts])
            for parts in (inputs, targets)
        )

    def draw_batch(self, size: int, side: int) -> tuple[Tensor, Tensor]:
        """Return (N, 3, side, side) inputs and their targets, float32 from 0 to 255."""
        chosen = self.place(self.random.integers(len(self.inputs), size=size))
        return cut_alike(self.inputs[chosen], self.targets[chosen], side, self.random)


class PairSampler:
    """Draws batches for the restoring model from the shards of `training.pairs`."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = np.random.default_rng(seed)
        self.shards: dict[Path, tuple[Pixels, Pixels]] = {}
        self.batches = 0

    def look(self) -> None:
        """Read the shards that are new."""
        new = sorted(set(self.folder.glob("*.npz")) - self.shards.keys())
        self.shards.update(zip(new, read_shards(new), strict=True))
        if not self.shards:
            raise SystemExit(f"{self.folder} has no pairs; training.pairs makes them")

    def draw_pair(self, side: int) -> tuple[Tensor, Tensor]:
        """Return an input of `side` pixels and its target, turned and flipped at random."""
        random, shards = self.random, list(self.shards.values())
        inputs, targets = shards[random.integers(len(shards))]
        row = random.integers(len(inputs))
        pair = torch.from_numpy(inputs[row]), torch.from_numpy(targets[row])
        return cut_alike(*pair, side, random)

    def draw_batch(self, size: int, side: int) -> tuple[Tensor, Tensor]:
        """Return (N, 3, side, side) inputs and their targets, float32 from 0 to 255."""
        if self.batches % BATCHES_A_LOOK == 0:
            self.look()
        self.batches += 1
        inputs, targets = zip(*(self.draw_pair(side) for _ in range(size)), strict=True)
        return torch.stack(inputs), torch.stack(targets)
