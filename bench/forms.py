"""What another format or size of an image costs once its PNG is stored.

    python -m bench.forms

A photograph of 4 megapixels (36 out) as PNG, then in other forms, which are made from that PNG.
"""

import tempfile
import time
from pathlib import Path

import httpx

from bench.memory import make_photo
from testkit.service import run_service

MEGAPIXELS = 4
FORMS: tuple[dict[str, str], ...] = (
    {"format": "png"},
    *({"format": "jpeg"}, {"format": "avif"}, {"format": "webp"}),
    {"format": "webp", "lossless": "true"},
    *({"scale": "2"}, {"scale": "4"}, {"width": "1920", "format": "webp"}),
)


def main() -> None:
    """Print the figures."""
    photo = make_photo(MEGAPIXELS, 1)
    headers = {"Content-Type": "application/octet-stream"}
    with tempfile.TemporaryDirectory() as folder, run_service(Path(folder)) as service:
        for form in FORMS:
            started = time.perf_counter()
            response = httpx.post(
                f"{service.url}/api/enhance",
                params=form,
                content=photo,
                headers=headers,
                timeout=600,
            )
            took = time.perf_counter() - started
            assert response.status_code == 200, response.text
            stages = response.headers["Server-Timing"]
            print(f"{took:6.2f} s, {len(response.content) / 1e6:5.1f} MB: {form}; {stages}")
        counts = httpx.get(f"{service.url}/api/stats").json()
        print(f"the network ran {counts['inferences']} time")


if __name__ == "__main__":
    main()
