"""Completion of the command line in bash, as docs/scripts.md sets it up."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
eval "$(_SUPERRES_COMPLETE=bash_source superres)"
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_superres_completion superres
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("superres", "s"), {"serve", "sign"}),
        (("superres", "enhance", "--mode", ""), {"faithful", "restore"}),
        (("superres", "sign", "--fo"), {"--format"}),
        (("superres", "sign", "--format", "a"), {"avif", "auto"}),
    ],
)
def test_tab_completes_commands_options_and_choices(
    words: tuple[str, ...], expected: set[str]
) -> None:
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    command = ["bash", "-c", SCRIPT, "bash", *words]
    done = subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected, done.stderr
