"""Loads the model once in the worker process, and checks that it computes correctly."""

import logging
import threading
from collections.abc import Callable

from superres.engines.upscaler import Upscaler
from superres.errors import NotReady

UNSOUND_RETRY_SECONDS = 60

logger = logging.getLogger(__name__)


class ModelLoader:
    """Loads the model on first use; must not be used before the server forks.

    Parameters
    ----------
    load : makes the model; called once

    Attributes
    ----------
    model : None until it is loaded
    is_sound : whether the golden tile came out right
    """

    def __init__(self, load: Callable[[], Upscaler]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self.model: Upscaler | None = None
        self.is_sound = False

    def get(self) -> Upscaler:
        """Return the model, loading it if needed."""
        if self.model is not None:
            return self.model
        with self._lock:
            if self.model is None:
                model = self._load()
                self.is_sound = model.matches_golden_tile()
                if not self.is_sound:
                    logger.error("the model does not reproduce its golden tile on this machine")
                self.model = model
                logger.info(
                    "model %s with %d lanes, %.1f microseconds a pixel",
                    model.model_path.name,
                    model.lanes,
                    model.seconds_per_pixel * 1e6,
                )
            return self.model

    def check_loaded(self) -> None:
        """Raise NotReady, saying why, unless the model is loaded and sound."""
        if self.model is None:
            raise NotReady("The model is loading.", retry_after_seconds=1)
        self.refuse_unsound()

    def refuse_unsound(self) -> None:
        """Raise NotReady if the loaded model gives wrong results."""
        if not self.is_sound:
            raise NotReady("The model gives wrong results on this machine.", UNSOUND_RETRY_SECONDS)
