"""Gathers the lanes' tiles into batches, for a device that computes many at once."""

import logging
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

from superres.errors import EngineLost
from superres.images.pixels import Pixels

# How long the first tile of a batch waits for others, and how often a batch that is being computed
# is looked at. A batch takes several times as long.
GATHER_SECONDS = 0.003
POLL_SECONDS = 0.001
# A device that takes longer hangs; a CPU in its place takes seconds.
BATCH_SECONDS = 60

logger = logging.getLogger(__name__)


class Batch(Protocol):
    """Tiles that a device is computing."""

    def is_done(self) -> bool:
        """Tell whether the results are there."""

    def collect(self) -> list[Pixels]:
        """Wait for the results and return them."""


class BatchModel(Protocol):
    """A model on a device, for one thread; it can compute one batch while another is collected.

    Attributes
    ----------
    batch_size : most tiles of a batch
    """

    batch_size: int

    def start(self, tiles: Sequence[Pixels]) -> Batch:
        """Start to compute tiles, (H, W, 3) uint8 each, of any sizes up to the model's."""


class Batcher:
    """A network, for any number of threads, that computes their tiles in batches.

    A full batch is sent to the device while it computes another. One that is not full waits until
    the device is idle and `GATHER_SECONDS` have passed.

    After the first failure every call fails: what failed may be the device itself, which then
    stays unusable for as long as the process lives.
    """

    def __init__(self, model: BatchModel) -> None:
        self._model = model
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Pixels, Future[Pixels]]] = deque()
        self._unanswered: set[Future[Pixels]] = set()
        self._is_closed = self._is_lost = False
        self._thread = threading.Thread(target=self._serve, name="batcher", daemon=True)
        self._thread.start()

    def __call__(self, tile: Pixels) -> Pixels:
        """Upscale a tile: (H, W, 3) uint8, BGR, to (3 H, 3 W, 3).

        Raises
        ------
        EngineLost
            The device has failed.
        """
        answer: Future[Pixels] = Future()
        with self._changed:
            if self._is_lost:
                raise EngineLost("The GPU has failed.")
            self._waiting.append((tile, answer))
            self._unanswered.add(answer)
            self._changed.notify_all()
        try:
            return answer.result(BATCH_SECONDS)
        except TimeoutError:
            self._lose(f"no result after {BATCH_SECONDS} seconds")
            raise EngineLost("The GPU has failed.") from None

    def close(self) -> None:
        """Stop the thread once all tiles are computed."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()

    def _serve(self) -> None:
        try:
            self._compute_batches()
        except Exception as error:
            self._lose(repr(error))

    def _compute_batches(self) -> None:
        computing: Batch | None = None
        its_answers: list[Future[Pixels]] = []
        while True:
            gathered = self._gather(computing)
            started = self._model.start([tile for tile, _ in gathered]) if gathered else None
            if computing is not None:
                self._answer(its_answers, computing.collect())
            elif started is None:
                return
            computing, its_answers = started, [answer for _, answer in gathered]

    def _gather(self, computing: Batch | None) -> list[tuple[Pixels, Future[Pixels]]]:
        """Return the next batch; none if there is something else to do, or nothing ever again."""
        with self._changed:
            if computing is None:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                self._changed.wait_for(self._can_fill, GATHER_SECONDS)
            else:
                while not self._can_fill():
                    if computing.is_done():
                        return []
                    self._changed.wait(POLL_SECONDS)
            count = min(len(self._waiting), self._model.batch_size)
            return [self._waiting.popleft() for _ in range(count)]

    def _can_fill(self) -> bool:
        """Tell whether enough tiles wait for a full batch."""
        return len(self._waiting) >= self._model.batch_size

    def _answer(self, answers: Sequence[Future[Pixels]], results: Sequence[Pixels]) -> None:
        with self._changed:
            for answer, result in zip(answers, results, strict=True):
                if answer in self._unanswered:
                    self._unanswered.remove(answer)
                    answer.set_result(result)

    def _lose(self, reason: str) -> None:
        """Give the device up: fail all tiles that have no result yet, and all to come."""
        with self._changed:
            if not self._is_lost:
                logger.error("the device that computes tiles has failed: %s", reason)
            self._is_lost = True
            self._waiting.clear()
            while self._unanswered:
                self._unanswered.pop().set_exception(EngineLost("The GPU has failed."))
