"""Commands from the README and the how-to pages, run as printed there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from superres.paths import PROJECT_DIR
from testkit.service import run_light_service
from testkit.source_server import Page, run_source_server

PAGES = ("README.md", "docs/scripts.md", "docs/http.md", "docs/operations.md")
# Commands that install, serve, or need root or another machine; they have their own tests.
ELSEWHERE = (
    *("make ", ". .venv", ".venv/bin/pip ", "pip install", "podman ", "docker ", "apt-get "),
    *("./deploy_test.sh", "python cleanup_cache.py --delete"),
)
NEEDS_OTHER_SERVERS = re.compile(r"SR_\w+=|DASK|AWS_|kubectl|systemctl|openssl|dask")


def blocks(page: str, language: str) -> list[str]:
    text = (PROJECT_DIR / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def runnable_lines(page: str) -> list[str]:
    return [
        line
        for block in blocks(page, "sh")
        if not NEEDS_OTHER_SERVERS.search(block)
        for line in block.splitlines()
        if line and not line.startswith((*ELSEWHERE, "#"))
    ]


@pytest.fixture
def folder(tmp_path: Path, photo_jpeg: bytes) -> Path:
    """Return a user's folder with images, in a checkout."""
    place = tmp_path / "user"
    (place / "folder").mkdir(parents=True)
    for name in ("photo.jpg", "poster.jpg"):
        (place / name).write_bytes(photo_jpeg)
    Image.new("RGB", (40, 30), "teal").save(place / "folder" / "tile.png")
    (place / "cleanup_cache.py").symlink_to(PROJECT_DIR / "cleanup_cache.py")
    return place


@pytest.mark.parametrize("page", PAGES)
def test_commands_work_as_they_are_written(
    page: str, folder: Path, tmp_path: Path, photo_jpeg: bytes
) -> None:
    lines = runnable_lines(page)
    assert lines
    with run_light_service(tmp_path / "service") as service, run_source_server() as sources:
        sources.pages["/poster.jpg"] = Page(photo_jpeg)
        script = "\n".join(lines).replace("http://localhost:7860", service.url)
        script = script.replace("https://example.com", sources.url(""))
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "SR_CACHE_DIR": str(service.folder / "cache"),
        }
        # With --fail, an error response fails the script.
        script = script.replace("curl ", "curl --fail --silent --show-error ")
        command = ["bash", "-euo", "pipefail", "-c", script]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True)
    assert done.returncode == 0, f"{done.stdout[-500:]!r}\n{done.stderr.decode()}"
    written = [*folder.glob("out.*"), *folder.glob("out/*")]
    for path in written:
        with Image.open(path) as image:
            image.load()
    assert written or "-o out" not in script


@pytest.mark.parametrize("page", ["README.md", "docs/scripts.md"])
def test_python_works_as_it_is_written(page: str, folder: Path) -> None:
    (code,) = blocks(page, "python")
    check = "\nfrom PIL import Image\nassert image.width == 3 * Image.open('photo.jpg').width"
    environment = os.environ | {"PYTHONPATH": str(PROJECT_DIR)}
    subprocess.run([sys.executable, "-c", code + check], cwd=folder, env=environment, check=True)
