"""What a version promises (docs/releases.md), a line each, so that a later one can be compared.

python -m tests.promises > tests/promises.txt

A release does that; until then, `test_promises.py` looks that nothing is missing.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import yaml

from superres.cli.command import MODULES, superres
from superres.errors import ServiceError
from superres.settings import Settings
from superres.web import metrics
from superres.web.api_docs import CONTRACT_PATH
from superres.web.web_pages import PAGE_DIR
from tests.api_page import follow


def list_values(contract: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    """Return what a schema's value may be: its values, or else its types."""
    schema = follow(contract, schema)
    kinds = schema.get("enum", schema.get("type", "any"))
    return [json.dumps(kind) for kind in kinds] if isinstance(kinds, list) else [kinds]


def list_members(contract: dict[str, Any], schema: dict[str, Any], place: str) -> Iterator[str]:
    """Yield the members of a schema, and of those in it; components that it names are their own."""
    for inner in (*schema.get("oneOf", []), *schema.get("anyOf", []), *schema.get("allOf", [])):
        yield from list_members(contract, inner, place)
    if "items" in schema:
        yield from list_members(contract, schema["items"], f"{place}[]")
    for member, value in schema.get("properties", {}).items():
        for kind in list_values(contract, value):
            yield f"{place}.{member} {kind}"
        yield from list_members(contract, value, f"{place}.{member}")


def list_operations(contract: dict[str, Any]) -> Iterator[str]:
    """Yield parameters, bodies and responses of each operation."""
    for path, operations in contract["paths"].items():
        shared = operations.get("parameters", [])
        for method, operation in operations.items():
            if method == "parameters":
                continue
            name = f"{method.upper()} {path}"
            for parameter in (*shared, *operation.get("parameters", [])):
                asked = follow(contract, parameter)
                for value in list_values(contract, asked["schema"]):
                    yield f"{name} {asked['in']} {asked['name']} {value}"
            for kind, content in operation.get("requestBody", {}).get("content", {}).items():
                yield f"{name} body {kind}"
                yield from list_members(contract, content.get("schema", {}), f"{name} body")
            for status, response in operation["responses"].items():
                for kind, content in follow(contract, response).get("content", {"": {}}).items():
                    yield f"{name} {status} {kind}".strip()
                    yield from list_members(contract, content.get("schema", {}), f"{name} {status}")


def list_codes(error: type[ServiceError]) -> Iterator[str]:
    """Yield the codes of an error and its kinds."""
    yield error.code
    for kind in error.__subclasses__():
        yield from list_codes(kind)


def list_promises() -> Iterator[str]:
    """Yield what this version keeps."""
    contract = yaml.safe_load(CONTRACT_PATH.read_text())
    yield from list_operations(contract)
    for name, schema in contract["components"]["schemas"].items():
        yield from list_members(contract, schema, f"openapi.yaml {name}")
    for code in list_codes(ServiceError):
        yield f"error {code}"
    for name in re.findall(r'"(sr_\w+)"', Path(metrics.__file__).read_text()):
        yield f"metric {name}"
    for item in fields(Settings):
        yield f"SR_{item.name.upper()}"
    for name in MODULES:
        yield f"superres {name}"
        command = superres.get_command(click.Context(superres), name)
        for parameter in command.params if command else ():
            for option in parameter.opts:
                yield f"superres {name} {option}"
    for name in re.findall(r"^export \w+ (\w+)", (PAGE_DIR / "client.d.ts").read_text(), re.M):
        yield f"client.js {name}"


if __name__ == "__main__":
    print("\n".join(sorted(set(list_promises()))))
