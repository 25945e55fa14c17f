"""A loaded model: upscales images tile by tile, on one lane per CPU.

A `cv2.dnn` network is not thread-safe, and OpenCV's own threads serve one call at a time. So the
model is loaded once per lane, a lane computes one tile on one thread, and one lane per CPU keeps
all CPUs busy.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from superres.engines.engine import Engine, Network, choose_lanes
from superres.engines.lanes import Lanes, Progress, Task
from superres.engines.model_files import hash_model, read_golden_tile
from superres.engines.speed_meter import Speed, SpeedMeter
from superres.engines.tiling import Tile, split_image
from superres.errors import EngineLost, ModelError
from superres.images.enlargement import enlarge_picture, resample_picture
from superres.images.options import DEFAULT_OPTIONS, MODEL_SCALE, Options
from superres.images.picture import Picture
from superres.images.pixels import Pixels
from superres.images.shared_arrays import allocate

# Long enough that an encoder's seconds are no reason to expect twice the time. After a pause, the
# first tiles of a job count for more than all that came before.
SPEED_MEMORY_SECONDS = 10


class Upscaler:
    """An EDSR x3 model in an engine, loaded and ready.

    Parameters
    ----------
    model_path : frozen TensorFlow graph of an EDSR x3
    engine : computes the tiles
    lanes : tiles computed at once; 0 for as many as CPUs and memory allow
    beside : another model on this machine, whose lanes this one shares if it computes on the same
        kind of device

    Attributes
    ----------
    is_lost : whether the engine has failed for good; its spare can take over

    Raises
    ------
    ModelError
        The file is missing, damaged, or not an EDSR x3 model.
    """

    def __init__(
        self, model_path: Path, engine: Engine, lanes: int = 0, beside: "Upscaler | None" = None
    ) -> None:
        self.model_path = model_path
        self.model_sha256 = hash_model(model_path)
        self.engine = engine
        self.profile = engine.profile
        self.is_lost = False
        if beside and beside.engine.lanes != engine.lanes:
            beside = None  # a cluster's or GPU's lanes are not one per CPU
        self.lanes: int = (
            beside.lanes if beside else lanes or engine.lanes or choose_lanes(engine.profile)
        )

        cv2.setNumThreads(1)
        self._cpu_meter = SpeedMeter(SPEED_MEMORY_SECONDS)
        self._wall_meter = SpeedMeter(SPEED_MEMORY_SECONDS)
        try:
            # One by one: two threads that read a model at the same time fail now and then.
            self._networks = [engine.load(model_path) for _ in range(self.lanes)]
            with ThreadPoolExecutor(self.lanes) as pool:
                enlarges = all(pool.map(self._warm_up, set(self._networks)))
        except cv2.error:
            enlarges = False
        if not enlarges:
            raise ModelError(
                f"{model_path} is not an EDSR x{MODEL_SCALE} model that OpenCV can run"
            )
        self._lanes: Lanes = beside._lanes if beside else Lanes(self.lanes)

    def _warm_up(self, network: Network) -> bool:
        """Prepare a network for the tile's shape, and tell whether it upscales."""
        side = self.profile.tile
        ramp = np.linspace(0, 255, side, dtype=np.uint8)
        probe = np.ascontiguousarray(np.broadcast_to(ramp[None, :, None], (side, side, 3)))
        network(probe)
        with self._measure(self.profile.kept_pixels):
            enlarged = network(probe)
        same_size = enlarged.shape == (side * MODEL_SCALE, side * MODEL_SCALE, 3)
        return same_size and enlarged.min() < enlarged.max()

    @contextmanager
    def _measure(self, pixels: int) -> Iterator[None]:
        """Measure a tile's CPU time, and its time by the wall clock."""
        started, computing = time.perf_counter(), self.engine.clock()
        yield
        # Small tiles are mostly overhead; they would make large images look slow.
        if 2 * pixels >= self.profile.kept_pixels:
            self._cpu_meter.record(self.engine.clock() - computing, pixels)
            self._wall_meter.record(time.perf_counter() - started, pixels)

    @property
    def speed(self) -> Speed:
        """How fast tiles are computed."""
        now, alone = self._wall_meter.seconds_per_pixel, self._cpu_meter.seconds_per_pixel
        return Speed(now / self.lanes, alone / self.lanes)

    @property
    def lanes_busy(self) -> int:
        """How many lanes are computing now."""
        return self._lanes.busy

    @property
    def lane_seconds(self) -> float:
        """Total time that the lanes have spent computing, in seconds."""
        return self._lanes.busy_seconds

    @property
    def fingerprint(self) -> str:
        """Everything about model and engine that changes the bytes of a result."""
        profile = self.profile
        tiles = f"tile {profile.tile} halo {profile.halo}"
        engine = f"{profile.engine} {profile.variant}".strip()
        return f"{self.model_sha256} x{MODEL_SCALE} {engine} {tiles}"

    def matches_golden_tile(self) -> bool:
        """Tell whether an embedded model reproduces its golden tile on this machine.

        Other models have no golden tile; loading has shown that they upscale.
        """
        if self.profile.golden_output is None:
            return True
        golden_input, expected = read_golden_tile(self.profile.golden_output)
        difference = np.abs(self.upscale(golden_input).astype(np.int16) - expected)
        return int(difference.max()) <= self.profile.golden_tolerance

    def upscale(self, image: Pixels) -> Pixels:
        """Upscale one image x3: see `upscale_all`."""
        return self.upscale_all([image])[0]

    def upscale_all(
        self, images: Sequence[Pixels], progress: Progress | None = None
    ) -> list[Pixels]:
        """Upscale x3; concurrent calls share the lanes tile by tile.

        Identical tiles, such as those of a flat background, are computed once.

        Parameters
        ----------
        images : (H, W, 3) uint8, BGR, or (H, W) uint8, grey; any number of the same size
        progress : updated as tiles are done, and asked whether to stop

        Returns
        -------
        (3 H, 3 W, 3) or (3 H, 3 W) uint8 for each, in shared memory

        Raises
        ------
        JobCancelled
            `progress.cancelled` was set, or the engine is lost (EngineLost).
        """
        outputs = []
        equal_tiles: dict[bytes, list[tuple[Tile, Pixels, Pixels]]] = {}
        for image in images:
            height, width = image.shape[:2]
            output = allocate((height * MODEL_SCALE, width * MODEL_SCALE, *image.shape[2:]))
            outputs.append(output)
            for tile in split_image(height, width, self.profile.tile, self.profile.halo):
                digest = hashlib.blake2b(tile.crop(image).data, digest_size=16).digest()
                equal_tiles.setdefault(digest, []).append((tile, image, output))

        def make_task(group: list[tuple[Tile, Pixels, Pixels]]) -> Task:
            return Task(
                lambda lane: self._compute_tile(self._networks[lane], group),
                group[0][0].kept_pixels,
                len(group),
            )

        try:
            self._lanes.run(map(make_task, equal_tiles.values()), progress or Progress())
        except EngineLost:
            self.is_lost = True
            raise
        return outputs

    def _compute_tile(self, network: Network, group: list[tuple[Tile, Pixels, Pixels]]) -> None:
        """Compute the first of some identical tiles and copy the result to the places of all."""
        first, image, _ = group[0]
        crop = first.crop(image)
        with self._measure(first.kept_pixels):
            if crop.ndim == 2:
                coloured = network(np.repeat(crop[:, :, np.newaxis], 3, axis=2))
                enlarged = np.asarray(cv2.cvtColor(coloured, cv2.COLOR_BGR2GRAY), np.uint8)
            else:
                enlarged = network(crop)
        for tile, _, output in group:
            tile.place(enlarged, output, MODEL_SCALE)

    def enlarge(
        self,
        picture: Picture,
        options: Options = DEFAULT_OPTIONS,
        progress: Progress | None = None,
    ) -> Picture:
        """Upscale a decoded image to the size that its options ask for."""
        enlarged = enlarge_picture(picture, lambda each: self.upscale_all(each, progress))
        return resample_picture(enlarged, *options.result_size(*picture.size))

    def close(self) -> None:
        """Stop the lanes."""
        self._lanes.close()
