"""uv.lock, requirements.txt and pyproject.toml are in sync; so is the version of uv."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement

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


def test_licences_are_those_of_what_the_lock_installs_on_debian_12() -> None:
    options = ("--frozen", "--no-emit-project", "--no-hashes", "--no-annotate", "--no-header")
    exported = run_uv("export", *options, "--all-extras", "--no-extra=gpu").stdout
    python = {"python_version": "3.11", "python_full_version": "3.11.2"}
    locked = {
        (each.name, str(each.specifier).removeprefix("=="))
        for each in map(Requirement, exported.splitlines())
        if each.marker is None or each.marker.evaluate(python)
    }
    page = (PROJECT_DIR / "THIRD_PARTY.md").read_text()
    listed = re.findall(r"^\| ([\w-]+) \| (\d[\w.]*) \| .+ \|$", page, re.M)
    # `make third-party` writes it.
    assert {(name.lower().replace("_", "-"), version) for name, version in listed} == locked


def test_project_asks_for_every_package_that_it_imports() -> None:
    project = tomllib.loads((PROJECT_DIR / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    asked = {
        re.split(r"[\[<>=;]", each)[0] for each in (*project["dependencies"], *chain(*extras))
    } | {project["name"]}
    modules = [*PROJECT_DIR.glob("*.py"), *(PROJECT_DIR / "superres").rglob("*.py")]
    imported = {
        name.partition(".")[0]
        for module in modules
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [n.name for n in node.names]
        )
    }
    ours = {"superres", *(path.stem for path in PROJECT_DIR.glob("*.py"))}
    owners = packages_distributions()
    missing = {
        name
        for name in imported - sys.stdlib_module_names - ours
        # The extra gpu is not installed for the tests; torch's package has its name.
        if not {owner.lower().replace("_", "-") for owner in owners.get(name, [name])} & asked
    }
    assert missing == set()


def test_one_version_of_uv_reads_the_lock_everywhere() -> None:
    project = tomllib.loads((PROJECT_DIR / "pyproject.toml").read_text())
    (pinned,) = (each for each in project["dependency-groups"]["test"] if "uv==" in each)
    for file in ("Makefile", "Containerfile"):
        found = re.findall(r"uv==[\d.]+", (PROJECT_DIR / file).read_text())
        assert set(found) == {pinned}, file


def test_pre_commit_runs_the_locked_ruff() -> None:
    lock = tomllib.loads((PROJECT_DIR / "uv.lock").read_text())
    (locked,) = (each["version"] for each in lock["package"] if each["name"] == "ruff")
    pinned = re.findall(r"ruff==([\d.]+)", (PROJECT_DIR / ".pre-commit-config.yaml").read_text())
    assert set(pinned) == {locked}
