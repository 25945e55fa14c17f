"""What cannot import `formats` and `options` agrees with them: page, client, contract, command."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from superres.cli.enhance import enhance
from superres.images.formats import FORMATS, find_format
from superres.images.options import MAX_QUALITY, OPTION_NAMES
from superres.store.result_name import NAME_PATTERN
from superres.web.api_docs import CONTRACT_PATH
from superres.web.web_pages import PAGE_DIR

NAMES = list(FORMATS)
MEDIA_TYPES = [each.media_type for each in FORMATS.values()]


@pytest.fixture(scope="module")
def contract() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(CONTRACT_PATH.read_text())
    return found


def test_client_takes_every_format() -> None:
    (choices,) = re.findall(r"format\?: (.*);", (PAGE_DIR / "client.d.ts").read_text())
    assert re.findall(r'"(\w+)"', choices) == NAMES


def test_client_contract_and_command_take_every_option(contract: dict[str, Any]) -> None:
    (sent,) = re.findall(r"OPTION_NAMES = \[(.*)\]", (PAGE_DIR / "client.js").read_text())
    assert set(re.findall(r'"(\w+)"', sent)) == set(OPTION_NAMES)
    declared = re.findall(r"^  (\w+)\?: ", (PAGE_DIR / "client.d.ts").read_text(), re.MULTILINE)
    upload = contract["paths"]["/api/enhance"]["post"]
    form = upload["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    for where in (declared, contract["components"]["parameters"], form):
        assert set(OPTION_NAMES) <= set(where)
    for operation in (upload, contract["paths"]["/api/result"]["get"]):
        references = {each.get("$ref", "").rpartition("/")[2] for each in operation["parameters"]}
        assert set(OPTION_NAMES) <= references
    assert set(OPTION_NAMES) <= {each.name for each in enhance.params}


def test_contract_takes_every_name_and_ending(contract: dict[str, Any]) -> None:
    schema = contract["components"]["parameters"]["format"]["schema"]
    endings = {each.ending for each in FORMATS.values()}
    assert {each for each in schema["enum"] if each} == {*NAMES, *endings}
    assert schema["default"] == "png"


def test_contract_names_every_default_quality(contract: dict[str, Any]) -> None:
    quality = contract["components"]["parameters"]["quality"]
    found = re.findall(r"(\d+) for (\w+)", quality["description"])
    expected = {
        each.name: each.default_quality
        for each in FORMATS.values()
        if each.default_quality is not None
    }
    assert {name: int(number) for number, name in found} == expected
    assert quality["schema"]["anyOf"][0]["maximum"] == MAX_QUALITY


def answered_pictures(contract: dict[str, Any]) -> Iterator[set[str]]:
    """Yield the image types in the responses of each operation that has any."""
    for operations in contract["paths"].values():
        for operation in operations.values():
            if isinstance(operation, dict):
                content = operation.get("responses", {}).get("200", {}).get("content", {})
                pictures = {kind for kind in content if kind.startswith("image/")}
                if pictures & set(MEDIA_TYPES):
                    yield pictures


def test_contract_answers_with_every_media_type(contract: dict[str, Any]) -> None:
    # Of a preview; to an upload, at a result's address, and at a source's.
    answered = sorted(answered_pictures(contract), key=len)
    assert answered == [{"image/png"}, *3 * [set(MEDIA_TYPES)]]


def test_contract_has_the_pattern_of_result_names(contract: dict[str, Any]) -> None:
    pattern = contract["components"]["schemas"]["Found"]["properties"]["name"]["pattern"]
    assert pattern == f"^{NAME_PATTERN.pattern}$"


def test_format_is_found_by_name_and_by_ending() -> None:
    for each in FORMATS.values():
        assert find_format(each.name) is find_format(each.ending) is each
    assert find_format("gif") is None
