"""The texts of the page at /: one file a language, none of which misses a text."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from superres.web.web_pages import PAGE_DIR

LANGUAGES = sorted((PAGE_DIR / "languages").glob("*.json"))
ENGLISH: dict[str, Any] = json.loads((PAGE_DIR / "languages" / "en.json").read_text())
# Parts of keys that are put together from what the service or the form says.
BUILT = re.compile(
    "^error[A-Z]|^(faithful|restore)Hint$"
    "|^(hashing|uploading|busy|cancel|remove|retry|download|language|direction)$"
)


def forms(text: str | dict[str, str]) -> dict[str, str]:
    """Return the plural forms of a text: one, "other", if it has none."""
    return text if isinstance(text, dict) else {"other": text}


def names(text: str) -> set[str]:
    # A number of pixels: each language counts it in its own way.
    return set(re.findall(r"\{(\w+)\}", text)) - {"millions", "compact"}


def read_keys() -> set[str]:
    """Return the keys that the page's HTML and modules use."""
    keys = set(re.findall(r'data-(?:text|label)="(\w+)"', (PAGE_DIR / "index.html").read_text()))
    for path in PAGE_DIR.glob("*.js"):
        source = path.read_text()
        for call in re.findall(r"\btext\(([^`;]*?)[,)]", source):
            keys |= set(re.findall(r'"(\w+)"', call))
        keys |= set(re.findall(r"\"(error[A-Z]\w+)\"", source))
    return keys


def test_every_text_that_the_page_uses_exists_and_every_text_is_used() -> None:
    used = read_keys()
    assert used <= set(ENGLISH)
    assert {key for key in ENGLISH if not BUILT.search(key)} <= used


@pytest.mark.parametrize("path", LANGUAGES, ids=lambda path: path.stem)
def test_language_has_every_text_with_the_same_values(path: Path) -> None:
    texts = json.loads(path.read_text())
    assert list(texts) == list(ENGLISH)  # in the same order, too
    for key, text in texts.items():
        found = forms(text)
        assert "other" in found
        expected = names(forms(ENGLISH[key])["other"])
        assert names(found["other"]) == expected, key
        assert all(names(form) <= expected and form.strip() for form in found.values()), key


def test_languages_are_named_in_themselves_and_have_a_direction() -> None:
    assert {path.stem for path in LANGUAGES} >= {"en", "zh"}
    for path in LANGUAGES:
        texts = json.loads(path.read_text())
        assert texts["language"]
        assert texts["direction"] in {"ltr", "rtl"}


def test_chinese_is_chinese() -> None:
    texts = json.loads((PAGE_DIR / "languages" / "zh.json").read_text())
    international = {"direction", "apiDocs", "ready", "comma"}
    for key, text in texts.items():
        if key not in international:
            assert re.search(r"[\u4e00-\u9fff]|^\{\w+\}，\{\w+\}$", forms(text)["other"]), key
