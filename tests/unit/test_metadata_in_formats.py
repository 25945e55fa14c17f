"""XMP, IPTC, comments and texts through every format and policy, as exiftool reads them."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from superres.engines.upscaler import Upscaler
from testkit.kinds import PHOTO, enhance
from testkit.pictures import encode

RESULTS = {"png": None, "webp": 90, "jpeg": 90, "avif": 80}
POLICIES = ("all", "safe", "none")
DOCUMENT = "xmp.did:0123456789abcdef"
# exiftool's names, with what is written.
SAFE_XMP: dict[str, object] = {
    "XMP-dc:Title": "Der Münsterturm 图",
    "XMP-dc:Creator": "Anna Author",
    "XMP-dc:Rights": "© Anna",
    "XMP-xmpRights:WebStatement": "https://example.org/rights?a=1&b=2",
    "XMP-photoshop:Headline": "A <headline> & more",
    "XMP-photoshop:Credit": "Agency",
    "XMP-xmp:CreatorTool": "Editor 1.0",
    "XMP-xmp:Rating": 4,
    "XMP-iptcExt:DigitalSourceType": "trainedAlgorithmicMedia",
    "XMP-cc:License": "https://creativecommons.org/licenses/by/4.0/",
    "XMP-exif:FNumber": 2.8,
}
PRIVATE_XMP: dict[str, object] = {
    "XMP-exif:GPSLatitude": 48.4,
    "XMP-photoshop:City": "Ulm",
    "XMP-photoshop:Country": "Germany",
    "XMP-iptcCore:Location": "Münster",
    "XMP-iptcCore:CountryCode": "DEU",
    "XMP-iptcCore:CreatorWorkEmail": "anna@example.org",
    "XMP-iptcExt:LocationShownCity": "Ulm",
    "XMP-iptcExt:PersonInImage": "Bert",
    "XMP-aux:SerialNumber": "S123",
    "XMP-exifEX:LensSerialNumber": "L456",
    "XMP-xmpMM:DocumentID": DOCUMENT,
    "XMP-xmpMM:HistorySoftwareAgent": "Editor 1.0",
    "XMP-lr:HierarchicalSubject": "Places|Ulm",
    "XMP-crs:RawFileName": "anna.dng",
}
# With what the result must say.
FITTED_XMP: dict[str, tuple[object, object]] = {
    "XMP-tiff:ImageWidth": (96, 288),
    "XMP-tiff:ImageHeight": (72, 216),
    "XMP-tiff:Orientation": (6, 1),
    "XMP-tiff:XResolution": (100, pytest.approx(300, abs=0.01)),  # PNG's unit is the metre
    "XMP-tiff:ResolutionUnit": (3, 2),
    "XMP-exif:ExifImageWidth": (96, 288),
    "XMP-exif:ExifImageHeight": (72, 216),
}
STALE_XMP: dict[str, object] = {
    "XMP-xmpMM:InstanceID": "xmp.iid:1",
    "XMP-dc:Format": "image/x-source",
    "XMP-xmp:ThumbnailFormat": "JPEG",
    "XMP-GCamera:MicroVideoOffset": 1234,
    "XMP-GDepth:Near": 1,
    "XMP-tiff:Compression": 5,
    "XMP-exif:NativeDigest": "digest",
    "XMP-mwg-rs:RegionAppliedToDimensionsW": 96,
}
SAFE_IPTC: dict[str, object] = {
    "IPTC:ObjectName": "Ein Titel",
    "IPTC:By-line": "José",
    "IPTC:Caption-Abstract": "What it shows",
    "IPTC:CopyrightNotice": "© José",
    "IPTC:Keywords": "Türme",
}
PRIVATE_IPTC: dict[str, object] = {
    "IPTC:City": "Ulm",
    "IPTC:Sub-location": "Münster",
    "IPTC:Province-State": "BW",
    "IPTC:Country-PrimaryLocationName": "Germany",
    "IPTC:Contact": "anna@example.org",
    "IPTC:OriginalTransmissionReference": "job 7",
}
# What formats without IPTC have of it, where XMP does not say it already.
MAPPED_IPTC: dict[str, object] = {
    "XMP-dc:Subject": "Türme",
    "XMP-dc:Description": "What it shows",
}
MAPPED_PRIVATE_IPTC: dict[str, object] = {
    "XMP-photoshop:State": "BW",
    "XMP-photoshop:TransmissionReference": "job 7",
}
SOURCES = ("PNG", "JPEG", "TIFF", "WEBP", "AVIF", "GIF")
WITH_IPTC = {"PNG", "JPEG", "TIFF"}
# What exiftool shows of the packet and the record.
PLUMBING = {"XMPToolkit", "CodedCharacterSet", "EnvelopeRecordVersion", "ApplicationRecordVersion"}
COMMENT = "A comment: größer"


def write_tags(content: bytes, tags: dict[str, object], path: Path) -> bytes:
    path.write_bytes(content)
    arguments = [f"-{name}={value}" for name, value in tags.items()]
    command = ["exiftool", "-q", "-m", "-n", "-overwrite_original", "-codedcharacterset=utf8"]
    subprocess.run([*command, *arguments, str(path)], check=True, capture_output=True)
    return path.read_bytes()


def read_tags(paths: list[Path]) -> list[dict[str, Any]]:
    command = ["exiftool", "-json", "-n", "-a", "-G1", *map(str, paths)]
    found = subprocess.run(command, check=True, capture_output=True)
    return [dict(tags) for tags in json.loads(found.stdout)]


def tagged(source: str, folder: Path) -> bytes:
    has_dpi = source in {"PNG", "JPEG", "TIFF"}
    content = encode(PHOTO, source, **({"dpi": (100, 100)} if has_dpi else {}))
    tags = SAFE_XMP | PRIVATE_XMP | STALE_XMP
    tags |= {name: value for name, (value, _) in FITTED_XMP.items()}
    if source in WITH_IPTC:
        tags |= SAFE_IPTC | PRIVATE_IPTC
    if source in {"PNG", "JPEG", "GIF"}:
        tags["Comment"] = COMMENT
    return write_tags(content, tags, folder / f"source.{source.lower()}")


@pytest.mark.parametrize("source", SOURCES)
def test_metadata_survives_as_the_policy_says(
    source: str, fake_super_resolution: Upscaler, tmp_path: Path
) -> None:
    content = tagged(source, tmp_path)
    (before,) = read_tags([tmp_path / f"source.{source.lower()}"])
    wanted = SAFE_XMP | PRIVATE_XMP | STALE_XMP
    assert {name: before.get(name) for name in wanted} == wanted  # exiftool has written them
    paths = {}
    for keep in POLICIES:
        for name, quality in RESULTS.items():
            path = paths[keep, name] = tmp_path / f"{keep}.{name}"
            path.write_bytes(
                enhance(fake_super_resolution, content, keep, format=name, quality=quality)
            )
    for (keep, name), found in zip(paths, read_tags(list(paths.values())), strict=True):
        assert "ExifTool:Warning" not in found
        expected = {} if keep == "none" else dict(SAFE_XMP)
        if keep == "all":
            expected |= PRIVATE_XMP
        if keep != "none":
            expected |= {tag: value for tag, (_, value) in FITTED_XMP.items()}
            if source not in {"PNG", "JPEG", "TIFF"}:  # they state no resolution
                expected = {tag: each for tag, each in expected.items() if "Resolution" not in tag}
        if keep != "none" and source in WITH_IPTC:
            expected |= expected_iptc(keep, name)
        if keep != "none" and source in {"PNG", "JPEG", "GIF"} and name in {"png", "jpeg"}:
            expected["PNG:Comment" if name == "png" else "File:Comment"] = COMMENT
        groups = ("XMP-", "IPTC:", "PNG:Comment", "File:Comment")
        ours = {
            tag: value
            for tag, value in found.items()
            if tag.startswith(groups) and tag.split(":")[1] not in PLUMBING
        }
        assert ours == expected, (keep, name)


def expected_iptc(keep: str, name: str) -> dict[str, object]:
    if name in {"png", "jpeg"}:
        return SAFE_IPTC | (PRIVATE_IPTC if keep == "all" else {})
    return MAPPED_IPTC | (MAPPED_PRIVATE_IPTC if keep == "all" else {})
