r"""Train EDSR x3 on packed crops, resumably.

    python -m training.train data/crops.npz data/run --minutes 600 \
        --start superres/models/EDSR_x3.pb

writes `checkpoint.pt` every few minutes, when interrupted and at the end, and `best.npz` whenever
the validation figure improves. The same command resumes the run. Then

    python -m training.export data/run/best.npz superres/models/EDSR_x3.pb

The restoring model is trained with `--pairs`, validated on damaged images, and exported as
EDSR_x3_restore.pb.

L1 loss, Adam, cosine decay to zero over the run, a moving average of the weights, flips and
rotations, larger crops for the last part.
"""

import argparse
import copy
import math
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from training.degradations import DAMAGED, MEASURED, Degradation
from training.export import read_weights as read_graph
from training.network import SCALE
from training.prepare import unpack
from training.samplers import CropSampler, PairSampler, Sampler, TensorSampler, to_tensor
from training.torch_network import EDSR, load_weights, read_weights

WARM_UP_STEPS = 200
EMA_DECAY = 0.999
BETAS = (0.9, 0.99)
GRADIENT_NORM = 1.0
LARGE_CROPS_FROM = 0.85
VALIDATION_INPUT_SIDE = 96
VALIDATION_EVERY_MINUTES = 10
CHECKPOINT_EVERY_MINUTES = 3


@dataclass
class Progress:
    """Progress of a run; part of its checkpoint."""

    step: int = 0
    minutes: float = 0.0
    best_db: float = 0.0


def measure_luma(image: Tensor) -> Tensor:
    """(N, 3, H, W) BGR from 0 to 255 -> (N, H, W) luma, ITU-R BT.601, from 16 to 235."""
    blue, green, red = image.unbind(1)
    return 16 + (24.966 * blue + 128.553 * green + 65.481 * red) / 255


class Validator:
    """Measures a network on the validation images, for each degradation."""

    def __init__(
        self, pictures: list[Image.Image], degradations: Mapping[str, Degradation]
    ) -> None:
        side = VALIDATION_INPUT_SIDE * SCALE
        corner = (pictures[0].width - side) // 2
        crops = [
            picture.crop((corner, corner, corner + side, corner + side)) for picture in pictures
        ]
        self.targets = torch.stack([to_tensor(crop) for crop in crops]).float()
        self.inputs = {
            name: torch.stack([to_tensor(degrade(crop)) for crop in crops]).float()
            for name, degrade in degradations.items()
        }

    def measure(self, network: EDSR, device: torch.device) -> dict[str, float]:
        """Return the mean PSNR in dB on Y, without the border, for each degradation."""
        figures = {}
        for name, inputs in self.inputs.items():
            with torch.no_grad():
                results = torch.cat([network(x[None].to(device)).cpu() for x in inputs])
            results = results.round().clamp(0, 255)
            error = measure_luma(results) - measure_luma(self.targets)
            error = error[:, SCALE:-SCALE, SCALE:-SCALE]
            figures[name] = float((10 * torch.log10(255**2 / error.square().mean((1, 2)))).mean())
        return figures


def choose_precision(network: EDSR, batch: int, side: int, device: torch.device) -> torch.dtype:
    """Time a few steps in float32 and in bfloat16 and return the faster type."""
    seconds: dict[torch.dtype, float] = {}
    inputs = torch.rand(batch, 3, side, side, device=device) * 255
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    for dtype in (torch.float32, torch.bfloat16):
        for repetition in range(4):
            started = time.perf_counter()
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = network(inputs).float().mean()
            loss.backward()
            loss.item()
            if repetition > 0:
                seconds[dtype] = min(seconds.get(dtype, math.inf), time.perf_counter() - started)
    network.zero_grad()
    print({str(dtype): f"{taken:.3f} s per step" for dtype, taken in seconds.items()}, flush=True)
    return min(seconds, key=lambda dtype: seconds[dtype])


class Trainer:
    """One run: network, moving average, optimiser, and progress."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.device = torch.device(arguments.device)
        self.folder: Path = arguments.run
        self.folder.mkdir(parents=True, exist_ok=True)
        with np.load(arguments.pack) as pack:
            train = list(unpack(pack["train_bytes"], pack["train_ends"]))
            pictures = list(unpack(pack["val_bytes"], pack["val_ends"]))
        self.validator = Validator(pictures, DAMAGED if arguments.pairs else MEASURED)
        self.network = EDSR().to(self.device, memory_format=torch.channels_last)
        if arguments.start:
            load_weights(self.network, read_graph(arguments.start))
        self.average = copy.deepcopy(self.network)
        self.optimiser = torch.optim.Adam(self.network.parameters(), arguments.rate, BETAS)
        self.progress = Progress()
        self.checkpoint_path = self.folder / "checkpoint.pt"
        if self.checkpoint_path.exists():
            self.load_checkpoint()
        seed = self.progress.step
        self.sampler: Sampler
        if arguments.pairs:
            self.sampler = PairSampler(arguments.pairs, seed)
        elif arguments.on_device:
            self.sampler = TensorSampler(train, seed, self.device)
        else:
            self.sampler = CropSampler(train, seed)
        self.stopped = False

    def load_checkpoint(self) -> None:
        """Resume the run."""
        state = torch.load(self.checkpoint_path, map_location=self.device)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.progress = Progress(**state["progress"])

    def save_checkpoint(self) -> None:
        """Write the checkpoint; a crash leaves the previous one."""
        temporary = self.checkpoint_path.with_suffix(".new")
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "progress": vars(self.progress),
        }
        torch.save(state, temporary)
        temporary.replace(self.checkpoint_path)

    def validate(self) -> str:
        """Measure the moving average; keep its weights if they are the best so far."""
        figures = self.validator.measure(self.average, self.device)
        mean = sum(figures.values()) / len(figures)
        if mean > self.progress.best_db:
            self.progress.best_db = mean
            np.savez(self.folder / "best.npz", **cast(dict[str, Any], read_weights(self.average)))
        shown = " ".join(f"{name} {value:.3f}" for name, value in figures.items())
        return f"PSNR mean {mean:.3f} dB ({shown}), best {self.progress.best_db:.3f}"

    def step(self, dtype: torch.dtype) -> float:
        """Take one step; return its loss."""
        share = min(self.progress.minutes / self.arguments.minutes, 1)
        side, batch = self.arguments.side, self.arguments.batch
        if share > LARGE_CROPS_FROM:
            side, batch = side * 3 // 2, max(batch // 2, 1)
        warm_up = min((self.progress.step + 1) / WARM_UP_STEPS, 1)
        rate = self.arguments.rate * warm_up * (1 + math.cos(math.pi * share)) / 2
        self.optimiser.param_groups[0]["lr"] = rate
        inputs, targets = (
            tensor.to(self.device) for tensor in self.sampler.draw_batch(batch, side)
        )
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            results = self.network(inputs)
        loss = functional.l1_loss(results.float(), targets)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_NORM)
        self.optimiser.step()
        self.progress.step += 1
        decay = min(EMA_DECAY, self.progress.step / (self.progress.step + 10))
        with torch.no_grad():
            pairs = zip(self.average.parameters(), self.network.parameters(), strict=True)
            for average, current in pairs:
                average.lerp_(current, 1 - decay)
        return float(loss.item())

    def run(self) -> None:
        """Train until the time is up, or until interrupted."""
        dtype = choose_precision(
            self.network, self.arguments.batch, self.arguments.side, self.device
        )
        print(f"training in {dtype}; start: {self.validate()}", flush=True)
        losses: list[float] = []
        validated = saved = self.progress.minutes
        while self.progress.minutes < self.arguments.minutes and not self.stopped:
            started = time.monotonic()
            losses.append(self.step(dtype))
            self.progress.minutes += (time.monotonic() - started) / 60
            if self.progress.minutes - saved >= CHECKPOINT_EVERY_MINUTES:
                saved = self.progress.minutes
                self.save_checkpoint()
            if self.progress.minutes - validated >= VALIDATION_EVERY_MINUTES:
                validated = self.progress.minutes
                self.report(losses)
                losses = []
        self.report(losses)
        self.save_checkpoint()

    def report(self, losses: list[float]) -> None:
        """Print the progress line."""
        left = self.arguments.minutes - self.progress.minutes
        loss = sum(losses) / len(losses) if losses else math.nan
        print(
            f"step {self.progress.step}, {self.progress.minutes:.0f} minutes, {left:.0f} left, "
            f"loss {loss:.4f}, {self.validate()}",
            flush=True,
        )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pack", type=Path, help="made by training.prepare")
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument(
        "--pairs", type=Path, help="folder of training.pairs: restoring, not faithful"
    )
    parser.add_argument("--start", type=Path, help="a .pb to start from")
    parser.add_argument("--minutes", type=float, default=600, help="of the whole run")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--on-device", action="store_true", help="also make the inputs there, for a GPU"
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side", type=int, default=32, help="of a training input, in pixels")
    parser.add_argument("--rate", type=float, default=2e-4, help="highest learning rate")
    trainer = Trainer(parser.parse_args())

    def stop(_signal: int, _frame: object) -> None:
        trainer.stopped = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    trainer.run()


if __name__ == "__main__":
    main()
