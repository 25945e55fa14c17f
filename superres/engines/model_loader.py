"""The model, loaded once in the worker process, and whether it computes what it should."""

import logging
import threading
from collections.abc import Callable

from superres.engines.upscaler import Upscaler
from superres.errors import NotReady

UNSOUND_RETRY_SECONDS = 60

logger = logging.getLogger(__name__)


class ModelLoader:
    """Loads the model when it is first asked for; must not be asked before the server forks.

    Parameters
    ----------
    load : makes the model; called once

    Attributes
    ----------
    model : None until it is loaded
    is_sound : the golden tile came out as it should
    """

    def __init__(self, load: Callable[[], Upscaler]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self.model: Upscaler | None = None
        self.is_sound = False

    def get(self) -> Upscaler:
        """Return the model, loading it unless that is done."""
        if self.model is not None:
            return self.model
        with self._lock:
            if self.model is None:
                model = self._load()
                self.is_sound = model.matches_golden_tile()
                if not self.is_sound:
                    logger.error("the model computes its golden tile wrongly on this machine")
                self.model = model
                logger.info(
                    "model %s with %d lanes, %.1f microseconds a pixel",
                    model.model_path.name,
                    model.lanes,
                    model.seconds_per_pixel * 1e6,
                )
            return self.model

    def check_loaded(self) -> None:
        """Raise NotReady, which says why, unless the model is loaded and sound."""
        if self.model is None:
            raise NotReady("The model is loading.", retry_after_seconds=1)
        self.refuse_unsound()

    def refuse_unsound(self) -> None:
        """Raise NotReady where a loaded model computes wrongly."""
        if not self.is_sound:
            raise NotReady("The model computes wrongly on this machine.", UNSOUND_RETRY_SECONDS)
