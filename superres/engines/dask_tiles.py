"""Computes tiles on a Dask cluster: for images that would take one machine minutes.

    python -m dask scheduler --protocol tls
    python -m dask worker tls://host:8786 --nworkers 16 --nthreads 1

Run the workers where this code and the same model are installed; SR_DASK_SCHEDULER=tls://host:8786
makes the service use them.

Anyone who can reach a scheduler can run code on its workers, so only TLS is accepted. The
certificates are in Dask's own settings (`DASK_DISTRIBUTED__COMM__TLS__…`).
"""

import hashlib
import logging
import os
import queue
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from superres.engines.engine import Engine, Network, choose_lanes
from superres.engines.model_files import hash_model
from superres.engines.opencv_engine import choose_profile, load_network
from superres.engines.upscaler import Upscaler
from superres.errors import ConfigError
from superres.images.pixels import Pixels
from superres.settings import Settings

# A worker's thread computes one tile while the next is in transit.
TILES_A_THREAD = 2
# A hung worker would keep its tiles until the scheduler drops it, which takes minutes
# (`distributed.scheduler.worker-ttl`). Tiles of a dead one go to another immediately.
TILE_SECONDS = 60
TRIES = 2
CONNECT_SECONDS = 5
LOOK_SECONDS = 2

logger = logging.getLogger(__name__)

# --- on a worker

_of_thread = threading.local()
_load_lock = threading.Lock()


def compute_tile(tile: Pixels, model_sha256: str, opencv: str) -> Pixels:
    """Upscale a tile with the worker's own copy of the model; runs on a worker.

    Raises
    ------
    LookupError
        The worker has another model or version of OpenCV, which results' names would not tell.
    """
    if opencv != cv2.__version__:
        raise LookupError(f"this worker's OpenCV is {cv2.__version__}, not {opencv}")
    if getattr(_of_thread, "model_sha256", None) != model_sha256:
        with _load_lock:
            cv2.setNumThreads(1)
            path = Settings.from_env(os.environ).model_path
            if hash_model(path) != model_sha256:
                raise LookupError(f"this worker's model is not {model_sha256}")
            _of_thread.network = load_network(path)
            _of_thread.model_sha256 = model_sha256
    enlarged: Pixels = _of_thread.network(tile)
    return enlarged


# --- in the service


class Cluster:
    """A network that computes tiles on a cluster, or locally while there is none.

    Safe to call from any number of threads.

    Parameters
    ----------
    scheduler : tls://host:port
    model_path : of the local copies, which are loaded when first needed

    Attributes
    ----------
    threads : of all workers together; 0 while the cluster is not used
    profile : constants of the model

    Raises
    ------
    ConfigError
        distributed is not installed, or Dask's certificates are missing or cannot be read.
    """

    def __init__(self, scheduler: str, model_path: Path) -> None:
        try:
            import distributed
            from distributed.security import Security
            from distributed.utils import LoopRunner
        except ImportError:
            raise ConfigError(
                "SR_DASK_SCHEDULER needs the extra cluster: pip install '.[cluster]'"
            ) from None
        try:
            certified = Security().get_connection_args("client")["ssl_context"] is not None
        except OSError:  # of which SSLError is one
            certified = False
        if not certified:
            # Also, each client that fails for this reason would be closed by whichever thread
            # collects it, and wait there for a lock that the same thread may hold.
            raise ConfigError(
                "SR_DASK_SCHEDULER needs the certificates that "
                "DASK_DISTRIBUTED__COMM__TLS__CA_FILE, …CLIENT__CERT and …CLIENT__KEY name"
            )
        self._distributed = distributed
        # Shared by all clients: each would leak a thread when it cannot connect.
        self._loop = LoopRunner()
        self._loop.start()
        self._scheduler = scheduler
        self._model_path = model_path
        self._model_sha256 = hash_model(model_path)
        self._client: Any = None
        self.threads = 0
        self._trouble = ""
        self._local: queue.SimpleQueue[Network | None] = queue.SimpleQueue()
        self.profile = choose_profile(model_path, self._model_sha256)
        for _ in range(choose_lanes(self.profile)):
            self._local.put(None)
        self._closed = threading.Event()
        self._look()
        self._looking = threading.Thread(target=self._keep_looking, name="cluster", daemon=True)
        self._looking.start()

    def __call__(self, tile: Pixels) -> Pixels:
        """Upscale a tile: (H, W, 3) uint8, BGR, to (3 H, 3 W, 3)."""
        for attempt in range(TRIES):
            if not self.threads:
                break
            try:
                return self._compute_there(tile, attempt)
            except Exception as error:
                # Whatever went wrong there, the tile can be computed here.
                logger.warning("a tile failed on the cluster: %r", error)
        else:
            self.threads = 0  # until the next look
        return self._compute_here(tile)

    def _compute_there(self, tile: Pixels, attempt: int) -> Pixels:
        """Compute on the cluster; identical tiles in flight at the same time are computed once."""
        content = np.ascontiguousarray(tile)
        digest = hashlib.blake2b(content.data, digest_size=16)
        digest.update(f"{content.shape} {self._model_sha256} {cv2.__version__}".encode())
        future = self._client.submit(
            compute_tile,
            content,
            self._model_sha256,
            cv2.__version__,
            # With a new key, a retry does not wait for the worker that did not respond.
            key=f"tile-{digest.hexdigest()}-{attempt}",
        )
        # A future that nobody holds is cancelled. `cancel()` would wait, without a limit.
        enlarged: Pixels = future.result(TILE_SECONDS)
        return enlarged

    def _compute_here(self, tile: Pixels) -> Pixels:
        network = self._local.get()
        try:
            if network is None:
                with _load_lock:
                    network = load_network(self._model_path)
            return network(tile)
        finally:
            self._local.put(network)

    def _keep_looking(self) -> None:
        while not self._closed.wait(LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        """Connect unless connected, and count the workers' threads."""
        before, trouble = self.threads, ""
        try:
            if self._client is None or self._client.status in {"closing", "closed"}:
                self._client = self._distributed.Client(
                    self._scheduler,
                    timeout=CONNECT_SECONDS,
                    set_as_default=False,
                    loop=self._loop.loop,
                )
            workers = self._client.nthreads(callback_timeout=CONNECT_SECONDS)
            self.threads = sum(workers.values())
        except Exception as error:
            self.threads = 0
            trouble = type(error).__name__
            if trouble != self._trouble:
                logger.error("no cluster, computing tiles locally: %r", error)
        self._trouble = trouble
        if self.threads != before:
            logger.info("%d threads on the cluster", self.threads)

    def close(self) -> None:
        """Disconnect from the cluster; from now on tiles are computed locally."""
        self._closed.set()
        # What looks for the cluster waits for the loop, which must not stop before it.
        self._looking.join()
        self.threads = 0
        if self._client is not None:
            self._client.close()
        self._loop.stop()


def load_on_cluster(scheduler: str, model_path: Path, lanes: int = 0) -> Upscaler:
    """Return the model on a cluster.

    Parameters
    ----------
    lanes : tiles in flight; 0: twice the number of threads that the cluster has now
    """
    cluster = Cluster(scheduler, model_path)
    lanes = lanes or TILES_A_THREAD * cluster.threads or choose_lanes(cluster.profile)
    # Wall-clock time, since the CPU time is spent elsewhere.
    engine = Engine(lambda _: cluster, cluster.profile, time.perf_counter, lanes)
    return Upscaler(model_path, engine)
