"""The wheel in its own virtual environment, used from its own folder."""

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from superres.paths import PROJECT_DIR
from testkit import loopback
from testkit.command_line import draw, names_in
from testkit.command_line import run as run_in_checkout
from testkit.service import Service, run_service
from testkit.waiting import WAIT_SECONDS


@pytest.fixture(scope="module")
def bin_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bin folder of a fresh virtual environment that has the wheel.

    What it depends on is found in the tests' own environment (`test_lock.py` looks whether it says
    all that it needs), but not this checkout, since a .pth file counts in one place only.
    """
    folder = tmp_path_factory.mktemp("wheel")
    build = ("-m", "build", "--wheel", "--no-isolation", "--outdir", folder, PROJECT_DIR)
    subprocess.run([sys.executable, *build], check=True, timeout=WAIT_SECONDS)
    (wheel,) = folder.glob("superres-*.whl")
    venv.create(folder / "venv", with_pip=True)
    pip = (folder / "venv" / "bin" / "pip", "install", "--quiet", "--no-index", "--no-deps")
    subprocess.run([*pip, wheel], check=True, timeout=WAIT_SECONDS)
    (packages,) = folder.glob("venv/lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "venv" / "bin"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a user's folder, with the files that the tutorial's readers have in it."""
    place = tmp_path / "user"
    draw(place / "photo.png", 1)
    for name in ("app", "super_resolution", "cache_headers", "cleanup_cache", "gunicorn.conf"):
        (place / f"{name}.py").write_text("raise SystemExit('not the service')")
    return place


def run(bin_dir: Path, folder: Path, *arguments: str, **options: object) -> bytes:
    """Run the installed command in a folder; return its standard output."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("SR_")}
    done = subprocess.run(
        [bin_dir / "superres", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        timeout=WAIT_SECONDS,
        check=True,
        **options,  # type: ignore[call-overload]
    )
    output: bytes = done.stdout
    return output


@pytest.fixture
def service(bin_dir: Path, folder: Path) -> Iterator[Service]:
    command = (str(bin_dir / "superres"), "serve")
    log = folder.parent / "log"
    # Empty is not set: data go where they go by default.
    with run_service(log, command, folder, cache_dir="", state_dir="") as running:
        yield running


def test_wheel_upscales_what_the_checkout_upscales(bin_dir: Path, folder: Path) -> None:
    picture = folder / "photo.png"
    run(bin_dir, folder, "enhance", "photo.png", "-o", "out", "--local")
    assert run_in_checkout(picture, "-o", folder / "ours", "--local").returncode == 0
    result = (folder / "out" / "photo_x3.png").read_bytes()
    assert result == (folder / "ours" / "photo_x3.png").read_bytes()
    with Image.open(BytesIO(result)) as image:
        assert image.size == (144, 144)


def test_wheel_serves_the_page_the_contract_and_results(
    bin_dir: Path, folder: Path, service: Service
) -> None:
    installed = names_in(bin_dir.parent / "lib")
    picture = (folder / "photo.png").read_bytes()
    assert loopback.get(service.url).status_code == 200
    assert loopback.get(f"{service.url}/openapi.json").json()["openapi"]
    answer = loopback.post(f"{service.url}/api/enhance", files={"image": picture}, timeout=60)
    assert answer.status_code == 200
    # The result was stored: the command finds it, as it asks for the same bytes.
    asked = ("enhance", "-", "-o", "-", "--url", service.url)
    assert run(bin_dir, folder, *asked, input=picture) == answer.content
    cache = folder / "data" / "cache"
    assert [path for path in cache.iterdir() if path.name.endswith(".png")]
    assert (folder / "data" / "state").is_dir()
    told = run(bin_dir, folder, "clean", "--dry-run", "--max-age-days", "0")
    assert told.startswith(b"dry run: removed 1 result")
    assert {name for name in names_in(bin_dir.parent / "lib") if "__pycache__" not in name} == {
        name for name in installed if "__pycache__" not in name
    }


def test_wheel_works_in_a_folder_that_was_removed(bin_dir: Path, folder: Path) -> None:
    script = 'mkdir gone && cd gone && rmdir ../gone && exec "$0" enhance - -o - --local'
    with (folder / "photo.png").open("rb") as picture:
        command = ["bash", "-c", script, str(bin_dir / "superres")]
        result = subprocess.check_output(command, cwd=folder, stdin=picture, timeout=WAIT_SECONDS)
    assert result.startswith(b"\x89PNG")


def test_wheel_has_no_module_whose_name_others_have(bin_dir: Path) -> None:
    (packages,) = bin_dir.parent.glob("lib/python*/site-packages")
    assert not (packages / "app.py").exists()
    assert {path.stem for path in packages.glob("*.py")} >= {
        "super_resolution",
        "cache_headers",
        "cleanup_cache",
    }
    assert run(bin_dir, packages, "key", "anna").startswith(b"anna:")
