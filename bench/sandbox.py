"""The cost of opening and encoding each image in its own process.

    make bench-sandbox          (python -m bench.sandbox [--side 512] [--repeat 40])

The same functions in the sandbox and in this process, on a photograph and its result.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from io import BytesIO

from PIL import Image
from skimage import data

from superres.images.encoders import encode_picture
from superres.images.image_codec import decode_image, read_header
from superres.images.options import Options
from superres.images.picture import Picture
from superres.service.sandboxed_codec import SandboxedCodec, share_picture
from testkit.pictures import encode
from testkit.service import read_peak_memory_mb

MAX_PIXELS = 16_000_000
# Images do not follow each other at once on an idle machine.
PAUSE_SECONDS = 0.03
OPTIONS = (Options(), Options("jpeg", 92), Options("webp", 90), Options("avif", 80))


def time_ms(work: Callable[[], object], repeat: int) -> float:
    """Return the median time of a function, in milliseconds."""
    seconds = []
    for _ in range(repeat):
        time.sleep(PAUSE_SECONDS)
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=40)
    chosen = parser.parse_args()
    photo = Image.fromarray(data.astronaut()).resize((chosen.side, chosen.side))
    file = BytesIO(encode(photo, "JPEG", quality=92))
    enlarged = decode_image(BytesIO(encode(photo.resize((3 * chosen.side,) * 2), "PNG")))
    codec = SandboxedCodec("safe")
    codec.start()

    def open_in_sandbox() -> Picture:
        return codec.decode(file, codec.read_header(file, MAX_PIXELS))

    def open_here() -> Picture:
        read_header(file, MAX_PIXELS)
        return decode_image(file)

    def encode_in_sandbox(picture: Picture, options: Options) -> memoryview:
        shared = share_picture(picture, options)
        return codec.encode(shared, options)

    pairs: list[tuple[str, Callable[[], object], Callable[[], object]]] = [
        ("header check and decode", open_in_sandbox, open_here),
    ]
    for options in OPTIONS:
        pairs.append(
            (
                f"encode {options.format}",
                lambda options=options: encode_in_sandbox(enlarged, options),  # type: ignore[misc]
                lambda options=options: encode_picture(enlarged, options),  # type: ignore[misc]
            )
        )
    print(
        f"| {chosen.side}x{chosen.side}, ms | sandbox | in the process | more |\n|---|---|---|---|"
    )
    for name, inside, outside in pairs:
        with_it, without = time_ms(inside, chosen.repeat), time_ms(outside, chosen.repeat)
        print(f"| {name} | {with_it:.1f} | {without:.1f} | {with_it - without:.1f} |")
    print(f"helper: {read_peak_memory_mb(codec.sandbox.helper_pid or 0):.0f} MB")
    codec.sandbox.close()


if __name__ == "__main__":
    main()
