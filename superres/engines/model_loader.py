"""Loads the models once in the worker process, and checks that they compute correctly."""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace

from superres.engines.engine import choose_lanes
from superres.engines.opencv_engine import LIGHT_PROFILE
from superres.engines.upscaler import Upscaler
from superres.errors import ModelError, ModeUnavailable, NotReady
from superres.images.options import FAITHFUL, RESTORE

UNSOUND_RETRY_SECONDS = 60

logger = logging.getLogger(__name__)


class ModelLoader:
    """Loads each model on first use; must not be used before the server forks.

    Once an engine is lost, its spare computes until the service is restarted.

    Parameters
    ----------
    load : makes the model of the default mode; called once
    load_restoring : makes the other one beside it; called once; None if there is none

    Attributes
    ----------
    modes : those that there is a model for
    models : those that are loaded, by mode
    """

    def __init__(
        self,
        load: Callable[[], Upscaler],
        load_restoring: Callable[[Upscaler], Upscaler] | None = None,
    ) -> None:
        self._load = load
        self._load_restoring = load_restoring
        self._lock = threading.RLock()
        self._sound_modes: set[str] = set()
        self.modes = (FAITHFUL,) if load_restoring is None else (FAITHFUL, RESTORE)
        self.models: dict[str, Upscaler] = {}

    @property
    def model(self) -> Upscaler | None:
        """The model of the default mode, if it is loaded."""
        return self.models.get(FAITHFUL)

    @property
    def is_sound(self) -> bool:
        """Whether the golden tile of the default mode came out right."""
        return FAITHFUL in self._sound_modes

    @property
    def missing_bytes(self) -> int:
        """Memory that a model which is not loaded yet will take, beside the loaded one."""
        if self.model is None or len(self.models) == len(self.modes):
            return 0
        # Measured: 43 MB per lane, since a lane's two networks use memory in turn. A GPU's lanes,
        # of which there are more, take little.
        lanes = min(self.model.lanes, choose_lanes(LIGHT_PROFILE))
        return lanes * LIGHT_PROFILE.lane_bytes // 2

    def get(self, mode: str = FAITHFUL) -> Upscaler:
        """Return the model of a mode, loading it, or replacing its lost engine, if needed.

        Raises
        ------
        ModelError
            That of the default mode cannot be loaded.
        ModeUnavailable, NotReady
            There is no other, or it cannot be loaded now.
        """
        if mode in self.models and not self.models[mode].is_lost:
            return self.models[mode]
        with self._lock:
            if mode not in self.models or self.models[mode].is_lost:
                if mode in self.models:
                    model = self._load_spare(mode)
                else:
                    model = self._load() if mode == FAITHFUL else self._load_other()
                if model.matches_golden_tile():
                    self._sound_modes.add(mode)
                else:
                    self._sound_modes.discard(mode)
                    logger.error("the %s model misses its golden tile on this machine", mode)
                self.models[mode] = model
                logger.info(
                    "model %s with %d lanes, %.1f microseconds a pixel",
                    model.model_path.name,
                    model.lanes,
                    model.speed.alone * 1e6,
                )
            return self.models[mode]

    def _load_other(self) -> Upscaler:
        if self._load_restoring is None:
            raise ModeUnavailable(f"This service has no model for mode={RESTORE}.")
        try:
            return self._load_restoring(self.get())
        except ModelError as error:
            logger.error("%s", error)
            fault = f"The model for mode={RESTORE} cannot be loaded."
            raise NotReady(fault, UNSOUND_RETRY_SECONDS) from None

    def _load_spare(self, mode: str) -> Upscaler:
        """Load a model into the spare of its lost engine."""
        for model in self.models.values():
            # They share the device.
            model.is_lost = model.is_lost or model.engine.spare is not None
        lost = self.models[mode]
        assert lost.engine.spare is not None
        reason = f"{lost.profile.engine} has failed; a restart tries it again"
        logger.error("%s; from now on, %s computes", reason, lost.engine.spare.profile.engine)
        spare = replace(lost.engine.spare, fallback_reason=reason)
        # The lost engine's lanes stay, idle: a job may be about to use them, and fail.
        beside = None if mode == FAITHFUL else self.get()
        return Upscaler(lost.model_path, spare, beside=beside)

    def check_loaded(self) -> None:
        """Raise NotReady, saying why, unless the default mode's model is loaded and sound."""
        if self.model is None:
            raise NotReady("The model is loading.", retry_after_seconds=1)
        self.refuse_unsound(FAITHFUL)

    def refuse_unsound(self, mode: str) -> None:
        """Raise NotReady if the loaded model of a mode gives wrong results."""
        if mode not in self._sound_modes:
            raise NotReady("The model gives wrong results on this machine.", UNSOUND_RETRY_SECONDS)
