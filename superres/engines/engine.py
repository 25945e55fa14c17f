"""An engine: computes a model's tiles, with constants that were measured for it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from superres import machine
from superres.images.pixels import Pixels

# One copy of a model, used by one thread at a time:
# (H, W, 3) BGR uint8 in, (3 H, 3 W, 3) out.
Network = Callable[[Pixels], Pixels]
MEMORY_SHARE_FOR_LANES = 0.5


@dataclass(frozen=True)
class ModelProfile:
    """Constants measured for a model and an engine; they never adapt, as results are immutable.

    Attributes
    ----------
    engine : name of the engine
    tile : longest side of a tile in input pixels; the least time per pixel (`bench/tiles.py`)
    halo : border of a tile that is discarded; how far a pixel's surroundings matter
    lane_bytes : resident memory of one more lane
    golden_output : name of the image of what the golden tile must become; None for other models
    golden_tolerance : levels by which it may differ
    variant : anything else about the engine that changes results
    """

    engine: str
    tile: int
    halo: int
    lane_bytes: int
    golden_output: str | None = None
    golden_tolerance: int = 0
    variant: str = ""

    @property
    def kept_pixels(self) -> int:
        """Input pixels of a full tile that are kept."""
        return (self.tile - 2 * self.halo) ** 2


@dataclass(frozen=True)
class Engine:
    """Makes networks, one for each lane.

    Attributes
    ----------
    load : makes a network from a model file; raises ModelError or `cv2.error` if it cannot
    profile : constants of the model in this engine
    clock : measures computing, in seconds; defaults to the calling thread's CPU time
    lanes : tiles computed at once; 0 for as many as CPUs and memory allow
    spare : computes from when a network raises EngineLost
    fallback_reason : why this engine computes in place of the one that was asked for
    """

    load: Callable[[Path], Network]
    profile: ModelProfile
    clock: Callable[[], float] = time.thread_time
    lanes: int = 0
    spare: "Engine | None" = None
    fallback_reason: str | None = None


def choose_lanes(profile: ModelProfile) -> int:
    """Return how many tiles to compute at once: one per CPU, within half of the memory."""
    room = machine.available_memory_bytes() * MEMORY_SHARE_FOR_LANES
    return max(1, min(machine.count_cpus(), int(room / profile.lane_bytes)))
