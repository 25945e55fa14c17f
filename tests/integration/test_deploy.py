"""What operators install beside the code."""

import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import pytest
import yaml

from superres.settings import PROJECT_DIR

UNITS = sorted(path.name for path in (PROJECT_DIR / "deploy").glob("super-resolution*"))


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units with the paths of this checkout, whose programs exist."""
    for name in UNITS:
        text = (PROJECT_DIR / "deploy" / name).read_text()
        (tmp_path / name).write_text(text.replace("/srv/super-resolution", str(PROJECT_DIR)))
    return tmp_path


def verify(units: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "verify", *(str(units / name) for name in UNITS)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_systemd_finds_nothing_wrong_with_the_units(units: Path) -> None:
    assert len(UNITS) == 4
    done = verify(units)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_would_find_what_is_wrong(units: Path) -> None:
    service = units / "super-resolution.service"
    service.write_text(service.read_text().replace("gunicorn app:app", "no-such-program"))
    assert "no-such-program" in verify(units).stderr


def test_compose_overrides_nothing_of_its_env_file_with_an_empty_value() -> None:
    compose = yaml.safe_load((PROJECT_DIR / "deploy" / "compose.yaml").read_text())
    app = compose["services"]["app"]
    assert [each["path"] for each in app["env_file"]] == ["super-resolution.env"]
    # What the shell has not set becomes what stands behind the ":-".
    values = {
        name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for name, value in app["environment"].items()
    }
    assert values["SR_TRUSTED_PROXIES"] == "1"
    assert all(values.values()), values


def is_in_context(name: str) -> bool:
    """Tell whether a file reaches the image's build: the last line that fits it, or its folder."""
    result = True
    places = [name, *(str(folder) for folder in PurePosixPath(name).parents)]
    for line in (PROJECT_DIR / ".containerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        # A star matches no slash there.
        if any(fnmatch(each, pattern) and each.count("/") == pattern.count("/") for each in places):
            result = line.startswith("!")
    return result


def test_image_has_every_module_and_data_file_of_the_service() -> None:
    copied = (PROJECT_DIR / "Containerfile").read_text()
    assert "COPY *.py LICENSE openapi.yaml" in copied
    assert "COPY superres superres" in copied
    assert "COPY web web" in copied
    patterns = re.findall(r"models/\S+", copied)
    models = [path.name for path in (PROJECT_DIR / "models").iterdir() if path.is_file()]
    for name in models:
        assert any(fnmatch(f"models/{name}", pattern) for pattern in patterns)
    modules = [path.name for path in PROJECT_DIR.glob("*.py")]
    for name in (
        *modules,
        "superres",
        "LICENSE",
        "openapi.yaml",
        "web",
        *(f"models/{each}" for each in models),
    ):
        assert is_in_context(name), name
    assert not is_in_context("testkit/service.py")
    assert not is_in_context(".git")


def test_image_can_be_built_with_every_requirements_file_that_is_named_for_it() -> None:
    texts = [PROJECT_DIR / "Containerfile", *(PROJECT_DIR / "docs").glob("*.md")]
    texts += (PROJECT_DIR / "deploy").glob("*.yaml")
    named = {
        file for text in texts for file in re.findall(r"REQUIREMENTS=(\S+?\.txt)", text.read_text())
    }
    assert named >= {"requirements.txt", "requirements-openvino.txt", "requirements-replica.txt"}
    while named:
        file = named.pop()
        assert is_in_context(file), file
        assert fnmatch(file, "requirements*.txt")  # what the Containerfile copies
        named.update(re.findall(r"^-r (\S+)", (PROJECT_DIR / file).read_text(), re.M))
