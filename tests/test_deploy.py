"""What operators install beside the code."""

import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from tests.service import PROJECT_DIR

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


def test_image_has_every_module_and_data_file_of_the_service() -> None:
    ignored = (PROJECT_DIR / ".containerignore").read_text()
    copied = (PROJECT_DIR / "Containerfile").read_text()
    assert "COPY *.py LICENSE openapi.yaml" in copied
    assert "!openapi.yaml\n" in ignored
    assert "!*.py" in ignored
    patterns = re.findall(r"models/\S+", copied)
    for path in (PROJECT_DIR / "models").glob("*"):
        if path.is_file():
            assert any(fnmatch(f"models/{path.name}", pattern) for pattern in patterns)
    for pattern in patterns:
        assert f"!{pattern}\n" in ignored
