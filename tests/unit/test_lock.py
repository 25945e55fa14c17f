"""uv.lock, requirements.txt and pyproject.toml are in sync; so is the version of uv."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from superres.paths import PROJECT_DIR

UV = Path(sys.executable).with_name("uv")


def run_uv(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([UV, *arguments], cwd=PROJECT_DIR, capture_output=True, text=True)


def test_lock_has_what_the_project_asks_for() -> None:
    # Offline: a lock that is in sync needs no index.
    done = run_uv("lock", "--check", "--offline")
    assert done.returncode == 0, done.stderr


def test_requirements_are_what_the_lock_says() -> None:
    exported = run_uv("export", "--frozen", "--no-emit-project", "--no-annotate").stdout
    assert (PROJECT_DIR / "requirements.txt").read_text() == exported


def test_one_version_of_uv_reads_the_lock_everywhere() -> None:
    project = tomllib.loads((PROJECT_DIR / "pyproject.toml").read_text())
    (pinned,) = (each for each in project["dependency-groups"]["test"] if "uv==" in each)
    for file in ("Makefile", "Containerfile"):
        found = re.findall(r"uv==[\d.]+", (PROJECT_DIR / file).read_text())
        assert set(found) == {pinned}, file
