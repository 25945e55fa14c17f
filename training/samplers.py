"""Draws training batches: for the faithful model from crops, for the restoring one from pairs."""

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from superres.images.pixels import Pixels
from training.degradations import JPEG_QUALITIES, JPEG_SHARE, degrade_at_random
from training.network import SCALE, Floats
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


class TensorSampler:
    """Draws batches for the faithful model on a GPU, where all crops are, and are degraded."""

    def __init__(self, crops: list[Image.Image], seed: int, device: torch.device) -> None:
        self.random = np.random.default_rng(seed)
        self.device = device
        self.crops = torch.stack([to_tensor(crop) for crop in crops]).to(device)

    def place(self, constant: Floats) -> Tensor:
        """Move a constant to the GPU."""
        return torch.from_numpy(constant).to(self.device)

    def draw_batch(self, size: int, side: int) -> tuple[Tensor, Tensor]:
        """Return (N, 3, side, side) inputs and their targets, float32 from 0 to 255, BGR."""
        random = self.random
        indices = torch.from_numpy(random.integers(len(self.crops), size=size))
        targets = self.crops[indices.to(self.device)].float().flip(1)  # RGB
        targets = torch.rot90(targets, int(random.integers(4)), (2, 3))
        if random.random() < 0.5:
            targets = targets.flip(3)
        name = random.choice(["bicubic"] * 4 + ["area"] * 2 + ["lanczos"])
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


class PairSampler:
    """Draws batches for the restoring model from the shards of `training.pairs`."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = np.random.default_rng(seed)
        self.shards: dict[Path, tuple[Pixels, Pixels]] = {}
        self.batches = 0

    def look(self) -> None:
        """Read the shards that are new."""
        for path in sorted(set(self.folder.glob("*.npz")) - self.shards.keys()):
            with np.load(path) as shard:
                self.shards[path] = shard["inputs"], shard["targets"]
        if not self.shards:
            raise SystemExit(f"{self.folder} has no pairs; training.pairs makes them")

    def draw_pair(self, side: int) -> tuple[Pixels, Pixels]:
        """Return an input of `side` pixels and its target, turned and flipped at random."""
        random, shards = self.random, list(self.shards.values())
        inputs, targets = shards[random.integers(len(shards))]
        row = random.integers(len(inputs))
        y, x = random.integers(0, inputs.shape[1] - side + 1, 2)
        turn, flip = int(random.integers(4)), random.random() < 0.5
        cut = []
        for image, scale in ((inputs[row], 1), (targets[row], SCALE)):
            rows = slice(y * scale, (y + side) * scale)
            columns = slice(x * scale, (x + side) * scale)
            turned = np.rot90(image[rows, columns], turn)
            cut.append(turned[:, ::-1] if flip else turned)
        return cut[0], cut[1]

    def draw_batch(self, size: int, side: int) -> tuple[Tensor, Tensor]:
        """Return (N, 3, side, side) inputs and their targets, float32 from 0 to 255."""
        if self.batches % BATCHES_A_LOOK == 0:
            self.look()
        self.batches += 1
        columns = zip(*(self.draw_pair(side) for _ in range(size)), strict=True)
        inputs, targets = (
            torch.from_numpy(np.ascontiguousarray(np.stack(column).transpose(0, 3, 1, 2))).float()
            for column in columns
        )
        return inputs, targets
