"""Pack photographs and drawings into one file of crops for training.

    python -m training.prepare PHOTOS data/crops.npz [--index PHOTOS/index.csv] [--max-mb 45]

The index names each file's split (`train` or `val`); without one, every twentieth photograph is
kept for validation. Crops of photographs are stored as JPEG of quality 91 without chroma
subsampling; drawings and validation images as PNG.
"""

import argparse
import csv
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from training.drawings import draw_dither, draw_picture

CROP_SIDE = 192
VALIDATION_SIDE = 288
# Reduced photographs are sharper and less noisy. Larger ones are reduced to this first: with their
# crops at full resolution, which have little detail a pixel, training loses 0.06 dB in validation.
LONGEST_SIDE = 1280
PHOTO_SCALES = (1.0, 0.7)
DRAWN_SHARE = 0.1
# Crops with a lower mean difference between neighbours teach nothing (sky, blur).
LEAST_DETAIL = 2.0
JPEG_QUALITY = 91


def encode(image: Image.Image, image_format: str) -> bytes:
    """Return an image as a file."""
    buffer = BytesIO()
    image.save(buffer, image_format, quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def measure_detail(image: Image.Image) -> float:
    """Return the mean absolute difference between neighbouring grey levels."""
    grey = np.asarray(image.convert("L")).astype(np.float32)
    return float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean())


def cut_crops(photo: Image.Image, scales: Sequence[float] = PHOTO_SCALES) -> Iterator[Image.Image]:
    """Yield the crops of a photograph at each scale, side by side."""
    for scale in scales:
        size = (round(photo.width * scale), round(photo.height * scale))
        scaled = photo if scale == 1 else photo.resize(size, Image.Resampling.LANCZOS)
        for top in range(0, scaled.height - CROP_SIDE + 1, CROP_SIDE):
            for left in range(0, scaled.width - CROP_SIDE + 1, CROP_SIDE):
                yield scaled.crop((left, top, left + CROP_SIDE, top + CROP_SIDE))


def crop_centre(photo: Image.Image, side: int) -> Image.Image:
    """Return the centre of a photograph."""
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    return photo.crop((left, top, left + side, top + side))


def read_splits(folder: Path, index: Path | None) -> dict[Path, str]:
    """Return each photograph's split."""
    if index is None:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in {".jpg", ".png"})
        return {path: "val" if n % 20 == 19 else "train" for n, path in enumerate(paths)}
    with index.open(newline="", encoding="utf-8") as lines:
        return {folder / row["file"]: row["split"] for row in csv.DictReader(lines)}


def pack(files: list[bytes]) -> dict[str, np.ndarray]:
    """Return files as one array of bytes, and where each ends."""
    return {
        "bytes": np.frombuffer(b"".join(files), np.uint8),
        "ends": np.cumsum([len(file) for file in files]),
    }


def unpack(content: np.ndarray, ends: np.ndarray) -> list[Image.Image]:
    """Return the images packed by `pack`."""

    def decode(start: int, end: int) -> Image.Image:
        return Image.open(BytesIO(content[start:end].tobytes())).convert("RGB")

    with ThreadPoolExecutor() as threads:
        return list(threads.map(decode, np.concatenate([[0], ends[:-1]]), ends))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--index", type=Path, help="CSV with the columns file and split")
    parser.add_argument("--scales", type=float, nargs="+", default=PHOTO_SCALES)
    parser.add_argument("--max-mb", type=float, default=float("inf"), help="keep the most detailed")
    arguments = parser.parse_args()

    crops: list[tuple[float, bytes]] = []
    validation = []
    for path, split in read_splits(arguments.photos, arguments.index).items():
        photo = Image.open(path).convert("RGB")
        photo.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
        if split == "val":
            validation.append(encode(crop_centre(photo, VALIDATION_SIDE), "PNG"))
            continue
        for crop in cut_crops(photo, arguments.scales):
            detail = measure_detail(crop)
            if detail >= LEAST_DETAIL:
                crops.append((detail, encode(crop, "JPEG")))

    crops.sort(key=lambda crop: -crop[0])
    sizes = np.cumsum([len(content) for _, content in crops]) / 1e6
    photos = [content for _, content in crops][: int((sizes <= arguments.max_mb).sum())]
    random = np.random.default_rng(0)
    drawn = [
        encode((draw_dither if n % 4 == 0 else draw_picture)(CROP_SIDE, random), "PNG")
        for n in range(round(len(photos) * DRAWN_SHARE))
    ]
    arguments.pack.parent.mkdir(parents=True, exist_ok=True)
    packs = {"train": pack(photos + drawn), "val": pack(validation)}
    arrays: dict[str, Any] = {
        f"{split}_{key}": part for split, parts in packs.items() for key, part in parts.items()
    }
    np.savez(arguments.pack, **arrays)
    print(
        f"{len(photos)} crops of photographs, {len(drawn)} drawn, {len(validation)} images for "
        f"validation, {arguments.pack.stat().st_size / 1e6:.0f} MB"
    )


if __name__ == "__main__":
    main()
