r"""Train EDSR x3 on packed crops, resumably.

    python -m training.train data/crops.npz data/run --minutes 600 \
        --start superres/models/EDSR_x3.pb

writes `checkpoint.pt` every few minutes, when interrupted and at the end, `best.npz` whenever the
validation figure improves, and `last.npz` at the end. The same command resumes the run. Then

    python -m training.export data/run/best.npz superres/models/EDSR_x3.pb

The restoring model is trained with `--pairs`, validated on damaged images, and exported as
EDSR_x3_restore.pb.

L1 loss (for the restoring model `training.adversary` at the end), Adam, cosine decay to zero over
the run, a moving average of the weights, flips and rotations.
"""

import argparse
import copy
import math
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from training.adversary import GRADIENT_SHARE, Adversary, add_in_proportion
from training.degradations import DAMAGED, MEASURED
from training.export import read_weights as read_graph
from training.network import Weights
from training.prepare import unpack
from training.samplers import (
    CropSampler,
    PairSampler,
    Sampler,
    TensorPairSampler,
    TensorSampler,
)
from training.torch_network import EDSR, load_weights, read_weights
from training.validation import Validator

WARM_UP_STEPS = 200
EMA_DECAY = 0.999
BETAS = (0.9, 0.99)
GRADIENT_NORM = 1.0
# The adversary has to learn before anybody listens to it.
ADVERSARY_FULL_FROM = 0.1
VALIDATION_EVERY_MINUTES = 10
LEAST_VALIDATIONS = 8
CHECKPOINT_EVERY_MINUTES = 3


@dataclass
class Progress:
    """Progress of a run; part of its checkpoint."""

    step: int = 0
    minutes: float = 0.0
    best_db: float = 0.0


def read_start(path: Path) -> Weights:
    """Read weights from a model or from a run's archive of arrays."""
    if path.suffix == ".pb":
        return read_graph(path)
    with np.load(path) as arrays:
        return dict(arrays)


def choose_precision(network: EDSR, batch: int, side: int, device: torch.device) -> torch.dtype:
    """Time a few steps in float32 and in bfloat16 and return the faster type.

    In CPU time: by the clock, a machine that is busy at the moment picks the slower one for hours.
    """
    seconds: dict[torch.dtype, float] = {}
    inputs = torch.rand(batch, 3, side, side, device=device) * 255
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    for dtype in (torch.float32, torch.bfloat16):
        for repetition in range(4):
            started = time.process_time()
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = network(inputs).float().mean()
            loss.backward()
            loss.item()
            if repetition > 0:
                seconds[dtype] = min(seconds.get(dtype, math.inf), time.process_time() - started)
    network.zero_grad()
    print({str(dtype): f"{taken:.3f} s per step" for dtype, taken in seconds.items()}, flush=True)
    return min(seconds, key=lambda dtype: seconds[dtype])


class Trainer:
    """One run: network, moving average, optimiser, and progress."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.device = torch.device(arguments.device)
        torch.backends.cudnn.benchmark = True
        self.folder: Path = arguments.run
        self.folder.mkdir(parents=True, exist_ok=True)
        with np.load(arguments.pack) as pack:
            pictures = unpack(pack["val_bytes"], pack["val_ends"])
        self.validator = Validator(pictures, DAMAGED if arguments.pairs else MEASURED)
        self.network = EDSR().to(self.device, memory_format=torch.channels_last)
        if arguments.start:
            load_weights(self.network, read_start(arguments.start))
        self.average = copy.deepcopy(self.network)
        compiled = self.device.type == "cuda"
        self.forward = (
            torch.compile(self.network, mode="reduce-overhead") if compiled else self.network
        )
        self.optimiser = torch.optim.Adam(
            self.network.parameters(), arguments.rate, BETAS, fused=compiled
        )
        self.adversary = Adversary(self.device) if arguments.adversary else None
        self.progress = Progress()
        self.checkpoint_path = self.folder / "checkpoint.pt"
        if self.checkpoint_path.exists():
            self.load_checkpoint()
        self.sampler = self.make_sampler()
        self.losses: list[Tensor] = []
        self.stopped = False

    def make_sampler(self) -> Sampler:
        """Return what draws the batches."""
        arguments, seed = self.arguments, self.progress.step
        if arguments.pairs and arguments.on_device:
            return TensorPairSampler(arguments.pairs, seed, self.device)
        if arguments.pairs:
            return PairSampler(arguments.pairs, seed)
        with np.load(arguments.pack) as pack:
            crops = unpack(pack["train_bytes"], pack["train_ends"])
        if arguments.on_device:
            return TensorSampler(crops, seed, self.device)
        return CropSampler(crops, seed)

    def list_parts(self) -> dict[str, Any]:
        """Return what a checkpoint holds the state of."""
        parts = {"network": self.network, "average": self.average, "optimiser": self.optimiser}
        if self.adversary:
            parts["discriminator"] = self.adversary.discriminator
            parts["discriminator_optimiser"] = self.adversary.optimiser
        return parts

    def load_checkpoint(self) -> None:
        """Resume the run."""
        state = torch.load(self.checkpoint_path, map_location=self.device)
        for name, part in self.list_parts().items():
            part.load_state_dict(state[name])
        self.progress = Progress(**state["progress"])

    def save_checkpoint(self) -> None:
        """Write the checkpoint; a crash leaves the previous one."""
        temporary = self.checkpoint_path.with_suffix(".new")
        state = {name: part.state_dict() for name, part in self.list_parts().items()}
        torch.save(state | {"progress": vars(self.progress)}, temporary)
        temporary.replace(self.checkpoint_path)

    def save_weights(self, name: str) -> None:
        """Write the moving average."""
        np.savez(self.folder / name, **cast(dict[str, Any], read_weights(self.average)))

    def validate(self) -> str:
        """Measure the moving average; keep its weights if they are the best so far."""
        figures = self.validator.measure(self.average, self.device)
        mean = sum(figures.values()) / len(figures)
        if mean > self.progress.best_db:
            self.progress.best_db = mean
            self.save_weights("best.npz")
        shown = " ".join(f"{name} {value:.3f}" for name, value in figures.items())
        return f"PSNR mean {mean:.3f} dB ({shown}), best {self.progress.best_db:.3f}"

    def differentiate(self, inputs: Tensor, results: Tensor, targets: Tensor) -> Tensor:
        """Return the gradient of the losses at the results."""
        loss = functional.l1_loss(results, targets)
        self.losses.append(loss.detach())
        (gradient,) = torch.autograd.grad(loss, results)
        if not self.adversary:
            return gradient
        self.adversary.learn(inputs, results.detach(), targets)
        full = self.progress.minutes / self.arguments.minutes / ADVERSARY_FULL_FROM
        other = self.adversary.differentiate(inputs, results, targets)
        return add_in_proportion(gradient, other, GRADIENT_SHARE * min(full, 1))

    def step(self, dtype: torch.dtype) -> None:
        """Take one step."""
        share = min(self.progress.minutes / self.arguments.minutes, 1)
        warm_up = min((self.progress.step + 1) / WARM_UP_STEPS, 1)
        rate = self.arguments.rate * warm_up * (1 + math.cos(math.pi * share)) / 2
        self.optimiser.param_groups[0]["lr"] = rate
        inputs, targets = (
            tensor.contiguous(memory_format=torch.channels_last)
            for tensor in self.sampler.draw_batch(self.arguments.batch, self.arguments.side)
        )
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            results = self.forward(inputs)
        gradient = self.differentiate(inputs, results.detach().float().requires_grad_(), targets)
        results.backward(gradient.to(results.dtype))
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_NORM)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.progress.step += 1
        decay = min(EMA_DECAY, self.progress.step / (self.progress.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(  # as PyTorch's swa_utils do
                list(self.average.parameters()), list(self.network.parameters()), 1 - decay
            )

    def run(self) -> None:
        """Train until the time is up, or until interrupted."""
        arguments = self.arguments
        dtype = (
            torch.bfloat16
            if self.device.type == "cuda"
            else choose_precision(self.network, arguments.batch, arguments.side, self.device)
        )
        print(f"training in {dtype}; start: {self.validate()}", flush=True)
        pause = min(VALIDATION_EVERY_MINUTES, arguments.minutes / LEAST_VALIDATIONS)
        validated = saved = self.progress.minutes
        while self.progress.minutes < arguments.minutes and not self.stopped:
            started = time.monotonic()
            self.step(dtype)
            self.progress.minutes += (time.monotonic() - started) / 60
            if self.progress.minutes - saved >= CHECKPOINT_EVERY_MINUTES:
                saved = self.progress.minutes
                self.save_checkpoint()
            if self.progress.minutes - validated >= pause:
                validated = self.progress.minutes
                self.report()
        self.report()
        self.save_weights("last.npz")
        self.save_checkpoint()

    def report(self) -> None:
        """Print the progress line."""
        minutes, steps = self.progress.minutes, self.progress.step
        left = self.arguments.minutes - minutes
        loss = float(torch.stack(self.losses).mean()) if self.losses else math.nan
        self.losses.clear()
        print(
            f"step {steps}, {minutes:.1f} minutes, {left:.1f} left, "
            f"{steps / max(60 * minutes, 1):.1f} steps a second, loss {loss:.4f}, "
            f"{self.validate()}",
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
    parser.add_argument(
        "--adversary", action="store_true", help="with a discriminator: the end of restoring"
    )
    parser.add_argument("--start", type=Path, help="a .pb or .npz to start from")
    parser.add_argument("--minutes", type=float, default=600, help="of the whole run")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--on-device", action="store_true", help="also make the inputs there, for a GPU"
    )
    parser.add_argument("--batch", type=int, default=5)
    parser.add_argument("--side", type=int, default=56, help="of a training input, in pixels")
    parser.add_argument("--rate", type=float, default=2e-4, help="highest learning rate")
    trainer = Trainer(parser.parse_args())

    def stop(_signal: int, _frame: object) -> None:
        trainer.stopped = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    trainer.run()


if __name__ == "__main__":
    main()
