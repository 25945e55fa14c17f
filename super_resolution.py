"""Super-resolution: EDSR x3, loaded once through `cv2.dnn_superres`."""

from io import BytesIO
from pathlib import Path

from PIL import Image

from superres.engines.opencv_engine import make_opencv_engine
from superres.engines.upscaler import Upscaler
from superres.images.encoders import to_pil
from superres.images.image_codec import decode_image
from superres.paths import EMBEDDED_MODEL_PATH


class SuperResolution(Upscaler):
    """An EDSR x3 model in OpenCV, loaded and ready.

    Parameters
    ----------
    model_path : frozen TensorFlow graph of an EDSR x3
    lanes : tiles computed at once; 0 for as many as CPUs and memory allow

    Raises
    ------
    ModelError
        The file is missing, damaged, or not an EDSR x3 model.
    """

    def __init__(self, model_path: Path = EMBEDDED_MODEL_PATH, lanes: int = 0) -> None:
        super().__init__(model_path, make_opencv_engine(model_path), lanes)

    def enhance(self, image_data: bytes) -> Image.Image:
        """Upscale an image file x3: the call for scripts.

        Parameters
        ----------
        image_data : bytes of an image file in any supported format

        Returns
        -------
        Pillow image, L, LA, RGB or RGBA, 8 bits, three times as wide and high
        """
        return to_pil(self.enlarge(decode_image(BytesIO(image_data))))
