"""Generates docs/api.md from openapi.yaml.

python -m tests.api_page > docs/api.md
"""

from typing import Any

import yaml

from superres.web.api_docs import CONTRACT_PATH


def follow(contract: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    """Resolve a reference; return other items unchanged."""
    if "$ref" not in item:
        return item
    found: Any = contract
    for part in item["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return dict(found)


def describe_schema(contract: dict[str, Any], schema: dict[str, Any]) -> str:
    """Return a schema in a few words."""
    schema = follow(contract, schema)
    if "anyOf" in schema:
        return describe_schema(contract, schema["anyOf"][0])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"] if value not in {None, ""})
    words = str(schema.get("type", "object")) if "type" in schema else "object"
    if isinstance(schema.get("type"), list):
        words = " or ".join(schema["type"])
    if "minimum" in schema and "maximum" in schema:
        words += f" from {schema['minimum']} to {schema['maximum']}"
    return words


def one_line(text: str) -> str:
    """Return a text as one line, for a table cell."""
    return " ".join(text.split()).replace("|", "\\|")


def render(contract: dict[str, Any]) -> str:
    """Return the page."""
    lines = [
        "# API reference",
        "",
        "Generated from [openapi.yaml](../superres/web/openapi.yaml) by `python -m tests.api_page`;"
        " a running service shows it at `/docs/`.",
        "",
        contract["info"]["description"].strip(),
    ]
    for path, operations in contract["paths"].items():
        for method, operation in operations.items():
            if method == "parameters":
                continue
            lines += ["", f"## {method.upper()} {path}", "", f"{operation['summary']}."]
            if "description" in operation:
                lines += ["", operation["description"].strip()]
            parameters = [*operations.get("parameters", []), *operation.get("parameters", [])]
            if parameters:
                lines += ["", "| parameter | in | values | |", "|---|---|---|---|"]
            for parameter in (follow(contract, each) for each in parameters):
                values = describe_schema(contract, parameter["schema"])
                text = one_line(parameter.get("description", ""))
                lines.append(f"| `{parameter['name']}` | {parameter['in']} | {values} | {text} |")
            lines += ["", "| status | | body |", "|---|---|---|"]
            for status, response in sorted(operation["responses"].items()):
                response = follow(contract, response)
                bodies = ", ".join(f"`{kind}`" for kind in response.get("content", {}))
                lines.append(f"| {status} | {one_line(response['description'])} | {bodies} |")
    for name, schema in contract["components"]["schemas"].items():
        if "properties" not in schema:
            continue
        lines += ["", f"## {name}", "", "| member | values | |", "|---|---|---|"]
        for member, value in schema["properties"].items():
            text = one_line(value.get("description", ""))
            lines.append(f"| `{member}` | {describe_schema(contract, value)} | {text} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line."""
    print(render(yaml.safe_load(CONTRACT_PATH.read_text())), end="")


if __name__ == "__main__":
    main()
