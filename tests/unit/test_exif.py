"""EXIF of results: types and byte order as the standard says, within each format's room."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.ExifTags import IFD, Base
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import IFDRational

from superres.engines.upscaler import Upscaler
from testkit.kinds import PHOTO, enhance, reopen
from testkit.pictures import encode

FORMATS = (("png", None), ("jpeg", 90), ("webp", 90), ("avif", 60))
PROMPT = "a lighthouse — photo, 35mm\nSteps: 20, Sampler: Euler a"


def write_tags(path: Path, *tags: str) -> None:
    command = ["exiftool", "-q", "-overwrite_original", *tags, str(path)]
    subprocess.run(command, check=True)


def read_tags(content: bytes, path: Path, *options: str) -> dict[str, Any]:
    path.write_bytes(content)
    command = ["exiftool", "-json", "-n", "-a", "-G1", *options, str(path)]
    done = subprocess.run(command, capture_output=True, check=True)
    tags: dict[str, Any] = json.loads(done.stdout)[0]
    return tags


@pytest.mark.parametrize(("name", "quality"), FORMATS)
def test_written_exif_is_valid(
    fake_super_resolution: Upscaler, tmp_path: Path, name: str, quality: int | None
) -> None:
    """Pillow alone writes BYTE for UNDEFINED, and RATIONAL for signed numbers: piexif fails."""
    source = tmp_path / "photo.jpg"
    source.write_bytes(encode(PHOTO, "JPEG"))
    written = {
        "ExifIFD:ExposureCompensation": 0.5,
        "ExifIFD:BrightnessValue": 3.5,
        "ExifIFD:ShutterSpeedValue": 0.004,
        "ExifIFD:UserComment": PROMPT,
        "GPS:GPSProcessingMethod": "GPS",
        "GPS:GPSLatitude": 48.5,
    }
    tags = [f"-{tag}={value}" for tag, value in written.items()]
    write_tags(source, "-n", "-ExifByteOrder=II", "-GPS:GPSLatitudeRef=N", *tags)
    result = enhance(
        fake_super_resolution, source.read_bytes(), "all", format=name, quality=quality
    )
    said = read_tags(result, tmp_path / f"result.{name}", "-validate", "-warning")
    assert "Non-standard" not in json.dumps(said), said
    assert "byte order" not in json.dumps(said), said
    said = read_tags(result, tmp_path / f"result.{name}")
    for tag, value in written.items():
        if isinstance(value, float):
            assert float(said[tag]) == pytest.approx(value), tag
        else:
            assert said[tag] == value


@pytest.mark.parametrize(("name", "quality"), FORMATS[1:])
def test_prompt_has_the_type_that_generators_read(
    fake_super_resolution: Upscaler, name: str, quality: int
) -> None:
    texts = PngInfo()
    texts.add_itxt("parameters", PROMPT)
    content = encode(PHOTO, "PNG", pnginfo=texts)
    result = enhance(fake_super_resolution, content, format=name, quality=quality)
    exif = reopen(result).getexif()
    comment = exif.get_ifd(IFD.Exif)[Base.UserComment]
    assert comment == b"UNICODE\0" + PROMPT.encode("utf-16-be")
    raw = bytes(reopen(result).info["exif"])
    # Tag, type UNDEFINED (7), and number of bytes.
    assert b"\x92\x86\0\7" + len(comment).to_bytes(4) in raw


@pytest.mark.parametrize(("name", "quality"), FORMATS)
def test_longest_value_alone_is_left_out(
    fake_super_resolution: Upscaler, name: str, quality: int | None
) -> None:
    exif = Image.Exif()
    exif[Base.ImageDescription], exif[Base.Artist] = "long " * 12_050, "Zoe"
    content = encode(PHOTO, "WEBP", exif=exif)
    result = enhance(fake_super_resolution, content, format=name, quality=quality)
    found = reopen(result).getexif()
    assert found[Base.Artist] == "Zoe"
    assert found[Base.ImageDescription].startswith("long long")  # within a segment
    exif[Base.ImageDescription] = "long " * 15_000
    content = encode(PHOTO, "WEBP", exif=exif)
    found = reopen(enhance(fake_super_resolution, content, format=name, quality=quality)).getexif()
    assert found[Base.Artist] == "Zoe"
    assert (Base.ImageDescription in found) == (name != "jpeg")


def test_long_prompts_survive_where_there_is_room(fake_super_resolution: Upscaler) -> None:
    texts = PngInfo()
    texts.add_text("parameters", "word " * 12_000)
    content = encode(PHOTO, "PNG", pnginfo=texts)
    comment = reopen(enhance(fake_super_resolution, content, format="webp", quality=90)).getexif()
    assert len(comment.get_ifd(IFD.Exif)[Base.UserComment]) > 120_000
    small = reopen(enhance(fake_super_resolution, content, format="jpeg", quality=90)).getexif()
    assert Base.UserComment not in small.get_ifd(IFD.Exif)


def test_pixel_coordinates_of_the_original_never_survive(fake_super_resolution: Upscaler) -> None:
    exif = Image.Exif()
    exif[IFD.Exif] = {
        0x9214: (40, 30, 10, 10),  # SubjectArea
        Base.SubjectLocation: (40, 30),
        Base.FocalPlaneXResolution: IFDRational(3000, 1),
        Base.FocalLength: IFDRational(35, 1),
    }
    content = encode(PHOTO, "JPEG", exif=exif)
    kept = reopen(enhance(fake_super_resolution, content, "all")).getexif().get_ifd(IFD.Exif)
    assert dict(kept) == {Base.FocalLength: 35}
