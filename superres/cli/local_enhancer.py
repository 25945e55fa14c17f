"""Upscales images in the command line's own process, without a service."""

import warnings
from collections.abc import Callable
from io import BytesIO

from superres.cli.service_answers import EnhanceError, Interrupted, Unusable
from superres.engines.lanes import Progress
from superres.engines.opencv_engine import make_opencv_engine
from superres.engines.upscaler import Upscaler
from superres.errors import ServiceError, StartupError
from superres.images.encoders import check_result_size, encode_picture
from superres.images.image_codec import decode_image
from superres.images.options import FAITHFUL, Options
from superres.paths import EMBEDDED_MODEL_PATH, RESTORE_MODEL_PATH

MAX_LOCAL_PIXELS = 400_000_000


class LocalEnhancer:
    """Upscales in this process; the output is byte-identical to the service's.

    Raises
    ------
    Unusable
        The model cannot be loaded.
    """

    def __init__(self, options: Options) -> None:
        # Pillow's warnings about damaged files; the outcome tells whether they are readable.
        warnings.simplefilter("ignore")
        self._options = options
        self._progress = Progress()
        self._is_stopped = False
        path = EMBEDDED_MODEL_PATH if options.mode == FAITHFUL else RESTORE_MODEL_PATH
        try:
            self._model = Upscaler(path, make_opencv_engine(path))
        except StartupError as error:
            raise Unusable(str(error)) from None

    def enhance(self, content: bytes, report: Callable[[float], None]) -> bytes:
        """Return an image file's result."""
        # One per image: it counts tiles.
        progress = self._progress = Progress()
        if self._is_stopped:
            raise Interrupted
        try:
            picture = decode_image(BytesIO(content))
            report(0.1)
            size = self._options.result_size(*picture.size)
            check_result_size(*size, self._options, MAX_LOCAL_PIXELS)
            enlarged = self._model.enlarge(picture, self._options, progress)
            return bytes(encode_picture(enlarged, self._options))
        except ServiceError as error:
            if self._is_stopped:
                raise Interrupted from None
            raise EnhanceError(error.message) from None

    def stop(self) -> None:
        """Make work in progress end within a tile."""
        self._is_stopped = True
        self._progress.cancelled = True
