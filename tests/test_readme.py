"""The README's settings table says what the code does."""

import re
from dataclasses import fields

from settings import PROJECT_DIR, Settings


def test_settings_table_lists_every_setting_with_its_default_and_meaning() -> None:
    rows = re.findall(
        r"^\| `(SR_\w+)` \| ?(.*?) ?\| (.*?) \|$", (PROJECT_DIR / "README.md").read_text(), re.M
    )
    listed = {variable: (default.strip("` "), meaning) for variable, default, meaning in rows}
    expected = {}
    for item in fields(Settings):
        default = str(item.default).removeprefix(f"{PROJECT_DIR}/")
        shown = {"()": "", "None": "", "True": "true", "False": "false"}.get(default, default)
        expected[f"SR_{item.name.upper()}"] = (shown, item.metadata["help"])
    assert listed == expected
