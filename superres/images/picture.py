"""An image inside the service: what its header says, and its samples once they are decoded."""

from dataclasses import dataclass

from superres.images.metadata import Metadata
from superres.images.pixels import DeepPixels, Pixels

NO_METADATA = Metadata()


@dataclass(frozen=True)
class ImageHeader:
    """What an image's header says, before decoding.

    Attributes
    ----------
    width, height : in pixels, upright
    has_alpha : whether it has transparency
    is_deep : whether it has 16 bits per sample
    """

    width: int
    height: int
    has_alpha: bool = False
    is_deep: bool = False

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.width * self.height

    @property
    def cost_pixels(self) -> int:
        """Input pixels for the network: transparency counts as a second image."""
        return self.pixels * (2 if self.has_alpha else 1)


@dataclass(frozen=True)
class Picture:
    """A decoded image, upright.

    Attributes
    ----------
    pixels : (H, W, 3) uint8, BGR; (H, W) if grey
    alpha : (H, W) uint8, 255 is opaque; None if the file has no transparency
    deep : (H, W, 3) BGR or (H, W, 1) grey, uint16, if the file has 16 bits per sample
    metadata : what the result keeps
    """

    pixels: Pixels
    alpha: Pixels | None = None
    deep: DeepPixels | None = None
    metadata: Metadata = NO_METADATA

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def is_grey(self) -> bool:
        """Whether it has one sample per pixel."""
        return self.pixels.ndim == 2

    def forget_rows(self, start: int, stop: int) -> None:
        """Learn that rows are not needed any more, and all above: see `ReceivedPicture`."""
