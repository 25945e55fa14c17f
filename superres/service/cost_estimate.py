"""What an image costs, in input pixels of the network: for its place in the queue, and charged."""

from superres.images.options import MODEL_SCALE, Options
from superres.images.picture import ImageHeader

# No honest file has as many. The slowest of `make hostile` take 0.2 microseconds a byte to decode,
# and the network takes 4 a pixel.
BYTES_A_PIXEL = 16
# Reading a stored PNG, resampling it and encoding the result take a tenth of the network's time, or
# less: 0.9 to 3.5 s instead of 38 for 4 megapixels, and 9 for lossless WebP.
SHARE_WITHOUT_NETWORK = 10


def estimate_cost(
    header: ImageHeader, options: Options, file_bytes: int, needs_network: bool = True
) -> int:
    """Return what an image costs, in input pixels of the network.

    A result that is large for its input is charged by its own pixels: it is resampled and encoded.
    A file that is large for its image is charged by its bytes: it may take seconds to decode.

    Parameters
    ----------
    needs_network : False if the network's output for this image is stored
    """
    width, height = options.result_size(header.width, header.height)
    of_result = width * height // MODEL_SCALE**2
    cost = max(header.cost_pixels, of_result)
    cost = cost if needs_network else -(-cost // SHARE_WITHOUT_NETWORK)
    return max(cost, file_bytes // BYTES_A_PIXEL)
