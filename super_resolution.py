"""Super-resolution: load EDSR x3 once through `cv2.dnn_superres`, enlarge pictures tile by tile.

A `cv2.dnn` network is not thread-safe, and OpenCV's own threads serve one call at a time. So the
model is loaded once for each lane, a lane computes one tile on one thread, and as many lanes as
CPUs keep them all busy.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

import machine
from encoders import to_pil
from enlargement import enlarge_picture
from errors import ModelError
from image_codec import Picture, decode_image
from lanes import Lanes, Network, Progress, Task
from options import MODEL_SCALE, Options
from settings import EMBEDDED_MODEL_PATH
from tiling import Pixels, Tile, split_image

SCALE = MODEL_SCALE
DEFAULT_OPTIONS = Options()
MEMORY_SHARE_FOR_LANES = 0.5
# How fast old tile times are forgotten in the measured speed.
SPEED_MEMORY = 0.98

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelProfile:
    """Constants measured for a model and an engine; results are immutable, so they never adapt.

    Attributes
    ----------
    engine : what computes
    tile : longest side of a tile in input pixels; the least time per pixel (`bench/tiles.py`)
    halo : border of a tile that is not kept; how far a pixel's surroundings matter
    lane_bytes : resident memory of one more lane
    golden_tolerance : levels that the golden tile may differ; None: of another model
    variant : whatever else of the engine changes results
    """

    engine: str
    tile: int
    halo: int
    lane_bytes: int
    golden_tolerance: int | None
    variant: str = ""

    @property
    def kept_pixels(self) -> int:
        """Input pixels of a full tile that are kept."""
        return (self.tile - 2 * self.halo) ** 2


# At most 1/255 from the untiled result, on photographs and on binary noise. From 120 to 152 the
# time per pixel is the same within 2 %; beyond, two lanes outgrow a cache of 32 MB. One wrong level
# in the golden tile is rounding: processors add in different orders.
EMBEDDED_PROFILE = ModelProfile(
    "cv2.dnn", tile=128, halo=10, lane_bytes=90 * 1024**2, golden_tolerance=2
)
# Measured with OpenCV's stock EDSR_x3.pb: at most 2/255.
OTHER_PROFILE = ModelProfile(
    "cv2.dnn", tile=96, halo=10, lane_bytes=1400 * 1024**2, golden_tolerance=None
)


def load_network(model_path: Path) -> Network:
    """Load one copy of the model into OpenCV."""
    model = cv2.dnn_superres.DnnSuperResImpl.create()
    model.readModel(str(model_path))
    model.setModel("edsr", SCALE)
    return lambda image: np.asarray(model.upsample(image), np.uint8)


def read_expected_sha256(model_path: Path) -> str | None:
    """Return the model's SHA-256 as the file SHA256SUMS beside it states it, if it does."""
    try:
        lines = model_path.with_name("SHA256SUMS").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        digest, _, name = line.partition("  ")
        if name == model_path.name:
            return digest
    return None


def hash_model(model_path: Path) -> str:
    """Return a model file's SHA-256.

    Raises
    ------
    ModelError
        The file cannot be read, or is not as SHA256SUMS states.
    """
    try:
        digest = hashlib.sha256(model_path.read_bytes()).hexdigest()
    except OSError as error:
        raise ModelError(f"cannot read the model {model_path}: {error.strerror}") from None
    if read_expected_sha256(model_path) not in {None, digest}:
        raise ModelError(f"{model_path} is damaged: its SHA-256 is not that of SHA256SUMS")
    return digest


def choose_profile(model_sha256: str) -> ModelProfile:
    """Return the constants of a model in OpenCV."""
    embedded = model_sha256 == read_expected_sha256(EMBEDDED_MODEL_PATH)
    return EMBEDDED_PROFILE if embedded else OTHER_PROFILE


def choose_lanes(profile: ModelProfile) -> int:
    """Return how many tiles this machine computes at once: a CPU each, and half of the memory."""
    room = machine.available_memory_bytes() * MEMORY_SHARE_FOR_LANES
    return max(1, min(machine.count_cpus(), int(room / profile.lane_bytes)))


def read_golden_tile() -> tuple[Pixels, Pixels]:
    """Return a tile, and what the embedded model has to make of it."""
    golden_input, golden_output = (
        decode_image(BytesIO(EMBEDDED_MODEL_PATH.with_name(name).read_bytes())).pixels
        for name in ("golden_input.png", "golden_output.png")
    )
    return golden_input, golden_output


class SuperResolution:
    """An EDSR x3 model, loaded and ready.

    Parameters
    ----------
    model_path : frozen TensorFlow graph of an EDSR x3
    lanes : tiles computed at once; 0 takes as many as CPUs and memory allow
    load : makes one copy of the model
    profile : constants of its engine; defaults to those of the model in OpenCV
    clock : what the engine spends, in seconds; defaults to the CPU time of the calling thread

    Raises
    ------
    ModelError
        The file is missing, damaged, or no EDSR x3 model.
    """

    def __init__(
        self,
        model_path: Path = EMBEDDED_MODEL_PATH,
        lanes: int = 0,
        load: Callable[[Path], Network] = load_network,
        profile: ModelProfile | None = None,
        clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self.model_path = model_path
        self.model_sha256 = hash_model(model_path)
        self.profile = profile or choose_profile(self.model_sha256)
        self.lanes = lanes or choose_lanes(self.profile)

        cv2.setNumThreads(1)
        self._clock = clock
        self._speed_lock = threading.Lock()
        self._tile_seconds = self._tile_pixels = 0.0
        try:
            # One after another: two threads that read a model at once fail now and then.
            networks = [load(model_path) for _ in range(self.lanes)]
            with ThreadPoolExecutor(self.lanes) as pool:
                enlarges = all(pool.map(self._warm_up, set(networks)))
        except cv2.error:
            enlarges = False
        if not enlarges:
            raise ModelError(f"{model_path} is no EDSR x{SCALE} model that OpenCV can run")
        self._lanes = Lanes(networks)

    def _warm_up(self, network: Network) -> bool:
        """Prepare a network for the tile's shape, and tell whether it enlarges."""
        side = self.profile.tile
        ramp = np.linspace(0, 255, side, dtype=np.uint8)
        probe = np.ascontiguousarray(np.broadcast_to(ramp[None, :, None], (side, side, 3)))
        network(probe)
        started = self._clock()
        enlarged = network(probe)
        self._record_speed(self._clock() - started, self.profile.kept_pixels)
        same_size = enlarged.shape == (side * SCALE, side * SCALE, 3)
        return same_size and enlarged.min() < enlarged.max()

    def _record_speed(self, seconds: float, pixels: int) -> None:
        """Note what some pixels took of a CPU, which decoders and encoders may share."""
        with self._speed_lock:
            self._tile_seconds = self._tile_seconds * SPEED_MEMORY + seconds
            self._tile_pixels = self._tile_pixels * SPEED_MEMORY + pixels

    @property
    def seconds_per_pixel(self) -> float:
        """Recent time per input pixel, in seconds, with all lanes at work and nothing else."""
        with self._speed_lock:
            return self._tile_seconds / self._tile_pixels / self.lanes

    @property
    def lanes_busy(self) -> int:
        """How many lanes compute now."""
        return self._lanes.busy

    @property
    def lane_seconds(self) -> float:
        """How long the lanes have computed, added up, in seconds."""
        return self._lanes.busy_seconds

    @property
    def fingerprint(self) -> str:
        """Everything about model and engine that changes the bytes of a result."""
        profile = self.profile
        tiles = f"tile {profile.tile} halo {profile.halo}"
        engine = f"{profile.engine} {profile.variant}".strip()
        return f"{self.model_sha256} x{SCALE} {engine} {tiles}"

    def matches_golden_tile(self) -> bool:
        """Compare the embedded model's golden tile with what it computes on this machine.

        Other models have no golden tile; loading has shown that they enlarge.
        """
        if self.profile.golden_tolerance is None:
            return True
        golden_input, expected = read_golden_tile()
        difference = np.abs(self.upscale(golden_input).astype(np.int16) - expected)
        return int(difference.max()) <= self.profile.golden_tolerance

    def upscale(self, image: Pixels) -> Pixels:
        """Enlarge one picture three times: see `upscale_all`."""
        return self.upscale_all([image])[0]

    def upscale_all(
        self, images: Sequence[Pixels], progress: Progress | None = None
    ) -> list[Pixels]:
        """Enlarge three times; pictures of several threads share the lanes tile by tile.

        Equal tiles, such as those of a flat background, are computed once.

        Parameters
        ----------
        images : (H, W, 3) uint8, BGR, or (H, W) uint8, grey; any number of one size
        progress : told how far this is, and asked whether to stop

        Returns
        -------
        (3 H, 3 W, 3) or (3 H, 3 W) uint8 for each

        Raises
        ------
        JobCancelled
            `progress.cancelled` was set.
        """
        outputs = []
        equal_tiles: dict[bytes, list[tuple[Tile, Pixels, Pixels]]] = {}
        for image in images:
            height, width = image.shape[:2]
            output = np.empty((height * SCALE, width * SCALE, *image.shape[2:]), np.uint8)
            outputs.append(output)
            for tile in split_image(height, width, self.profile.tile, self.profile.halo):
                digest = hashlib.blake2b(tile.crop(image).data, digest_size=16).digest()
                equal_tiles.setdefault(digest, []).append((tile, image, output))

        def make_task(group: list[tuple[Tile, Pixels, Pixels]]) -> Task:
            return Task(
                lambda network: self._compute_tile(network, group),
                group[0][0].kept_pixels,
                len(group),
            )

        self._lanes.run(map(make_task, equal_tiles.values()), progress or Progress())
        return outputs

    def _compute_tile(self, network: Network, group: list[tuple[Tile, Pixels, Pixels]]) -> None:
        """Compute the first of some equal tiles and copy the result to the places of all."""
        first, image, _ = group[0]
        crop = first.crop(image)
        started = self._clock()
        if crop.ndim == 2:
            coloured = network(np.repeat(crop[:, :, np.newaxis], 3, axis=2))
            enlarged = np.asarray(cv2.cvtColor(coloured, cv2.COLOR_BGR2GRAY), np.uint8)
        else:
            enlarged = network(crop)
        seconds = self._clock() - started
        # Of small tiles most of the time is overhead; they would make large pictures look slow.
        if 2 * first.kept_pixels >= self.profile.kept_pixels:
            self._record_speed(seconds, first.kept_pixels)
        for tile, _, output in group:
            tile.place(enlarged, output, SCALE)

    def enlarge(
        self,
        picture: Picture,
        options: Options = DEFAULT_OPTIONS,
        progress: Progress | None = None,
    ) -> Picture:
        """Enlarge a decoded picture to the size that its options name."""
        width, height = options.result_size(*picture.size)
        return enlarge_picture(
            picture, lambda each: self.upscale_all(each, progress), width, height
        )

    def enhance(self, image_data: bytes) -> Image.Image:
        """Enlarge a picture file three times: the call for scripts.

        Parameters
        ----------
        image_data : bytes of a picture file of any accepted format

        Returns
        -------
        Pillow image, L, LA, RGB or RGBA, 8 bits, three times as wide and high
        """
        return to_pil(self.enlarge(decode_image(BytesIO(image_data))))

    def close(self) -> None:
        """Let the lanes end."""
        self._lanes.close()
