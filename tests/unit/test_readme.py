"""The documents say what the code does."""

import ast
import re
from dataclasses import fields
from pathlib import Path

from superres import __version__
from superres.errors import ClientLeft, ServiceError
from superres.images.formats import AVIF, JPEG, WEBP
from superres.paths import PROJECT_DIR
from superres.settings import Settings
from superres.web.web_pages import PAGE_DIR

DOCS = PROJECT_DIR / "docs"


def test_settings_table_lists_every_setting_with_its_default_and_meaning() -> None:
    rows = re.findall(
        r"^\| `(SR_\w+)` \| ?(.*?) ?\| (.*?) \|$", (DOCS / "settings.md").read_text(), re.M
    )
    listed = {variable: (default.strip("` "), meaning) for variable, default, meaning in rows}
    expected = {}
    for item in fields(Settings):
        default = str(item.default).removeprefix(f"{PROJECT_DIR}/")
        shown = {"()": "", "None": "", "True": "true", "False": "false"}.get(default, default)
        expected[f"SR_{item.name.upper()}"] = (shown, item.metadata["help"])
    assert listed == expected


def test_limits_name_the_longest_side_of_each_format() -> None:
    sides = f"WebP result has at most {WEBP.max_side:,} pixels, of a JPEG {JPEG.max_side:,}, of an"
    assert f"{sides} AVIF {AVIF.max_side:,}." in (DOCS / "fidelity.md").read_text()


def codes_of(error: type[ServiceError]) -> set[str]:
    return {error.code}.union(*map(codes_of, error.__subclasses__()))


def test_table_of_errors_has_every_code_that_a_client_may_read() -> None:
    listed = set(re.findall(r"`(\w+)`", (DOCS / "http.md").read_text()))
    # Nobody receives that one.
    assert codes_of(ServiceError) - listed == {ClientLeft.code}


def test_manifest_names_the_version() -> None:
    manifest = (PROJECT_DIR / "deploy/kubernetes.yaml").read_text()
    assert set(re.findall(r"image: .*/super-resolution:(\S+)", manifest)) == {__version__}


def test_changelog_begins_with_what_is_unreleased_and_the_version() -> None:
    headings = re.findall(r"^## (.*)$", (PROJECT_DIR / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == "[Unreleased]"
    assert re.fullmatch(rf"\[{re.escape(__version__)}\] - \d{{4}}-\d\d-\d\d", headings[1])


def test_links_lead_somewhere() -> None:
    pages = [*PROJECT_DIR.glob("*.md"), *PROJECT_DIR.glob("docs/*.md")]
    for page in (*pages, PROJECT_DIR / "superres/models/README.md"):
        for link in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", page.read_text()):
            file, _, anchor = link.partition("#")
            target = page.parent / file if file else page
            assert target.exists(), f"{page.name}: {link}"
            assert not anchor or anchor in anchors_of(target), f"{page.name}: {link}"


def test_page_on_pypi_has_no_links_into_a_checkout() -> None:
    assert re.findall(r"\]\((?!https:)", (DOCS / "package.md").read_text()) == []


def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def test_architecture_lists_every_module_of_the_page_with_its_first_comment() -> None:
    text = (DOCS / "architecture.md").read_text()
    listed = dict(re.findall(r"^\| `(\w+\.js)` \| (.+) \|$", text, re.M))
    lines = {path.name: path.read_text().splitlines()[0] for path in PAGE_DIR.glob("*.js")}
    comments = {name: line.removeprefix("/** ").removesuffix(" */") for name, line in lines.items()}
    assert {name: words.replace("`", "") for name, words in listed.items()} == comments


def test_architecture_lists_every_module_with_the_first_words_of_its_docstring() -> None:
    text = (DOCS / "architecture.md").read_text()
    listed = dict(re.findall(r"^\| `(\w+)\.py` \| (.+) \|$", text, re.M))
    paths = [*PROJECT_DIR.glob("superres/**/*.py"), *PROJECT_DIR.glob("*.py")]
    # A package's own description is in its heading.
    unlisted = {"__init__.py", "__main__.py", "gunicorn.conf.py"}
    modules = [path for path in paths if path.name not in unlisted]
    docstrings = {path.stem: ast.get_docstring(ast.parse(path.read_text())) for path in modules}
    assert listed == {
        name: (words or "").partition("\n\n")[0].replace("\n", " ")
        for name, words in docstrings.items()
    }
