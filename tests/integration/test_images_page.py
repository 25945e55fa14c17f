"""docs/images.md: its programs sign as the service does, and its commands work as printed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from superres.paths import PROJECT_DIR
from superres.sources.signed_address import PREFIX, ImageRequest, read_address, sign_address

PAGE = (PROJECT_DIR / "docs" / "images.md").read_text()
KEY = "0123456789abcdef0123456789abcdef"
# Bytes whose base64 has both characters that base64url replaces, and all lengths of padding.
SOURCES = [
    "https://shop.example/boots.jpg",
    "https://shop.example/?~>~>?",
    "https://shop.example/größe/靴.jpg",
    *(f"https://shop.example/{'a' * length}" for length in range(3)),
]
# How each language is run, and what calls its function for each argument and prints the paths.
LANGUAGES = {
    "python": (
        [sys.executable, "-c"],
        "import sys\n"
        "for source in sys.argv[1:]:\n"
        "    print(image_path(source), image_path(source, 'width:800,fallback:source', 'webp'))",
    ),
    "js": (
        ["node", "--input-type=module", "--eval"],
        "for (const source of process.argv.slice(1))\n"
        "  console.log(imagePath(source), imagePath(source, 'width:800,fallback:source', 'webp'));",
    ),
    "php": (
        ["php", "-r"],
        "foreach (array_slice($argv, 1) as $source)\n"
        "    echo image_path($source), ' ',"
        " image_path($source, 'width:800,fallback:source', 'webp'), \"\\n\";",
    ),
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.mark.parametrize("language", LANGUAGES)
def test_program_signs_as_the_service_does(language: str) -> None:
    command, call = LANGUAGES[language]
    (program,) = blocks(language)
    separator = ["--"] if language != "python" else []
    done = subprocess.run(
        [*command, f"{program}\n{call}", *separator, *SOURCES],
        env={**os.environ, "SR_URL_KEY": KEY},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = []
    for source in SOURCES:
        wide = ImageRequest(source, "webp", {"width": "800"}, falls_back=True)
        expected.append(
            f"{sign_address(KEY, ImageRequest(source, 'auto', {}))} {sign_address(KEY, wide)}"
        )
    assert done.stdout.splitlines() == expected


def test_commands_that_sign_work_as_they_are_written() -> None:
    script = "".join(block for block in blocks("sh") if "superres sign" in block)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    addresses = re.findall(rf"https://sr\.example{PREFIX}([^/]+)/([^/]+)/(\S+)", done.stdout)
    assert len(addresses) == 6
    requests = [read_address([KEY], *parts) for parts in addresses]
    assert {each.source for each in requests} == {"https://shop.example/boots.jpg"}
    assert [each.texts["width"] for each in requests[3:]] == ["480", "960", "1920"]
    # The address at the top of the page.
    assert f'<img src="https://sr.example{PREFIX}{"/".join(addresses[0])}">' in PAGE
