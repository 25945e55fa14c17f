"""Writes the software bill of materials (CycloneDX 1.6) of a virtual environment: `make sbom`.

sbom.py ENVIRONMENT > superres.cdx.json

cyclonedx-py lists the packages; below each, this adds what its wheel brings along: the components
of its own bills (PEP 770), shared libraries (auditwheel's), and Swagger UI.
"""

import hashlib
import json
import re
import subprocess
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.utils import canonicalize_name

Component = dict[str, Any]

# Those that every version of CycloneDX has; wheels have bills of several.
FIELDS = ("type", "name", "version", "description", "hashes", "licenses", "purl")


def read_bill(bill: Path) -> list[Component]:
    """Return the components of a wheel's own bill."""
    components = json.loads(bill.read_bytes()).get("components", [])
    return [{key: each[key] for key in FIELDS if key in each} for each in components]


def describe_library(library: Path) -> Component:
    """Return a shared library, under the name that it had before auditwheel added a hash."""
    digest = hashlib.sha256(library.read_bytes()).hexdigest()
    return {
        "type": "file",
        "name": re.sub(r"(-[0-9a-f]{8})+(?=\.|-)", "", library.name),
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }


def list_bundled(package: Distribution) -> list[Component]:
    """Return what a package's wheel brings along."""
    bundled = []
    for file in package.files or ():
        path = Path(str(package.locate_file(file)))
        if file.parent.name == "sboms":
            bundled += read_bill(path)
        elif file.parts[0].endswith(".libs"):
            bundled.append(describe_library(path))
        elif file.match("flask_swagger_ui/dist/VERSION"):
            version = path.read_text().strip().removeprefix("v")
            purl = f"pkg:npm/swagger-ui-dist@{version}"
            licenses = [{"license": {"id": "Apache-2.0"}}]
            bundled.append(
                {"type": "library", "name": "swagger-ui-dist", "version": version}
                | {"purl": purl, "licenses": licenses}
            )
    # auditwheel's bills name the package itself, and what it takes two libraries from twice.
    itself = canonicalize_name(package.name)
    seen = {json.dumps(each, sort_keys=True): each for each in bundled}
    return [each for each in seen.values() if canonicalize_name(each["name"]) != itself]


def make_sbom(environment: Path) -> dict[str, Any]:
    """Return the bill of a virtual environment in which this service is installed."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible"]
    listed = subprocess.run([*command, str(environment)], check=True, stdout=subprocess.PIPE)
    bom: dict[str, Any] = json.loads(listed.stdout)
    (site_packages,) = environment.glob("lib/python3*/site-packages")
    packages = {each.metadata["Name"]: each for each in distributions(path=[str(site_packages)])}
    for component in bom["components"]:
        if bundled := list_bundled(packages[component["name"]]):
            component["components"] = bundled
    (service,) = (each for each in bom["components"] if each["name"] == "superres")
    bom["components"].remove(service)
    bom["metadata"]["component"] = service | {"type": "application"}
    return bom


if __name__ == "__main__":
    text = json.dumps(make_sbom(Path(sys.argv[1])), indent=1)
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        sys.exit(f"not valid CycloneDX 1.6: {error}")
    print(text)
