"""What operators install in addition to the code."""

import re
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import pytest
import yaml

from superres.paths import PROJECT_DIR

UNITS = sorted(path.name for path in (PROJECT_DIR / "deploy").glob("super-resolution*"))


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units with the paths of this checkout, where the programs exist."""
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
    # Unset variables become the default after the ":-".
    values = {
        name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for name, value in app["environment"].items()
    }
    assert values["SR_TRUSTED_PROXIES"] == "1"
    assert all(values.values()), values


def is_in_context(name: str) -> bool:
    """Tell whether a file is in the build context: the last line matching it or its folder wins."""
    result = True
    places = [name, *(str(folder) for folder in PurePosixPath(name).parents)]
    for line in (PROJECT_DIR / ".containerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        # A star does not match a slash there.
        if any(fnmatch(each, pattern) and each.count("/") == pattern.count("/") for each in places):
            result = line.startswith("!")
    return result


def test_image_has_what_the_wheel_is_built_from() -> None:
    copied = re.findall(
        r"^COPY (?!--from)(.*) \S+$", (PROJECT_DIR / "Containerfile").read_text(), re.M
    )
    patterns = " ".join(copied).split()
    needed = ["pyproject.toml", "uv.lock", "superres", "LICENSE", "README.md"]
    needed += [path.name for path in PROJECT_DIR.glob("*.py")]
    for name in needed:
        assert is_in_context(name), name
        assert any(fnmatch(name, pattern) for pattern in patterns), name
    assert is_in_context("superres/models/EDSR_x3.pb")
    assert not is_in_context("testkit/service.py")
    assert not is_in_context(".git")


def test_every_extra_that_is_named_exists() -> None:
    project = tomllib.loads((PROJECT_DIR / "pyproject.toml").read_text())["project"]
    texts = [PROJECT_DIR / "Containerfile", PROJECT_DIR / "Makefile"]
    texts += [*(PROJECT_DIR / "docs").glob("*.md"), *(PROJECT_DIR / "deploy").glob("*.yaml")]
    texts += (PROJECT_DIR / "superres").rglob("*.py")
    pattern = r"EXTRAS=\"?([a-z][a-z0-9 ]*)|'\.\[([a-z0-9,]+)\]'|the extra `?([a-z0-9]+)"
    named = {
        extra
        for text in texts
        for found in re.findall(pattern, text.read_text())
        for extra in re.findall(r"[a-z0-9]+", " ".join(found))
    }
    assert named == set(project["optional-dependencies"])
