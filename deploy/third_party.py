"""Writes THIRD_PARTY.md from the software bill of materials: `make third-party`.

third_party.py SBOM > THIRD_PARTY.md

A package or library whose licence is not known ends it: it was looked at once, here.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Component = dict[str, Any]

# Of packages that name theirs otherwise than SPDX does, as their LICENSE files say.
LICENCES = {
    "async-timeout": "Apache-2.0",
    "itsdangerous": "BSD-3-Clause",
    "Jinja2": "BSD-3-Clause",
    "opencv-contrib-python-headless": "Apache-2.0",
    "openvino-telemetry": "Apache-2.0",
    "partd": "BSD-3-Clause",
    "pi_heif": "BSD-3-Clause",  # the other that it names is that of the libraries in it
    "sortedcontainers": "Apache-2.0",
    "zict": "BSD-3-Clause",
}

# Shared libraries: pattern of the file's name, project, licence.
LIBRARIES = (
    ("libaom", "libaom", "BSD-2-Clause"),
    ("lib(av(codec|format|util)|sw(scale|resample))", "FFmpeg", "LGPL-2.1-or-later"),
    ("libavif", "libavif", "BSD-2-Clause"),
    ("libbrotli(common|dec)", "Brotli", "MIT"),
    ("libcom_err", "libcom_err", "MIT"),
    ("libcrypt", "libcrypt of glibc", "LGPL-2.1-or-later"),
    (r"lib(crypto|ssl)\.so\.1\.1", "OpenSSL 1.1", "OpenSSL"),
    (r"lib(crypto|ssl)\.so\.3", "OpenSSL 3", "Apache-2.0"),
    ("libdav1d", "dav1d", "BSD-2-Clause"),
    ("libde265", "libde265", "LGPL-3.0-or-later"),
    ("libdrm", "libdrm", "MIT"),
    ("libfreetype", "FreeType", "FTL"),
    ("libgfortran", "libgfortran", "GPL-3.0-or-later WITH GCC-exception-3.1"),
    ("lib(gssapi_krb5|k5crypto|krb5|krb5support)", "MIT Kerberos", "MIT"),
    ("libharfbuzz", "HarfBuzz", "MIT"),
    ("libheif", "libheif", "LGPL-3.0-or-later"),
    ("libjpeg", "libjpeg / libjpeg-turbo", "IJG AND BSD-3-Clause AND Zlib"),
    ("libkeyutils", "libkeyutils", "LGPL-2.0-or-later"),
    ("lib(lber|ldap)", "OpenLDAP", "OLDAP-2.8"),
    ("liblcms2", "Little CMS 2", "MIT"),
    ("liblzma", "liblzma", "0BSD"),
    ("lib(scipy_)?openblas(p|64_)", "OpenBLAS", "BSD-3-Clause"),
    ("libopenjp2", "OpenJPEG", "BSD-2-Clause"),
    ("libpng16", "libpng", "libpng-2.0"),
    ("libpq", "libpq", "PostgreSQL"),
    ("libquadmath", "libquadmath", "LGPL-2.1-or-later"),
    ("libsasl2", "Cyrus SASL", "BSD-Attribution-HPND-disclaimer"),
    ("lib(sharpyuv|webp|webpdemux|webpmux)", "libwebp", "BSD-3-Clause"),
    ("libtiff", "libtiff", "libtiff"),
    ("libvpx", "libvpx", "BSD-3-Clause"),
    ("libXau", "libXau", "MIT-open-group"),
    ("libxcb", "libxcb", "X11"),
    ("libzstd", "Zstandard", "BSD-3-Clause"),
)

# Inside a package's own modules, where no bill sees them.
LINKED = {
    "opencv-contrib-python-headless": {
        "Intel IPP ICV": "Intel Simplified Software License, on x86-64 alone",
        "others": "see its LICENSE-3RD-PARTY.txt",
    },
    "openvino": {"oneDNN": "Apache-2.0", "oneTBB": "Apache-2.0", "hwloc": "BSD-3-Clause"},
    "PyYAML": {"LibYAML": "MIT"},
    "zlib-ng": {"zlib-ng": "Zlib"},
}

# Pillow's bill has what it can be built with; its wheels contain neither (`PIL.features`).
ABSENT = {"FriBiDi", "libimagequant"}

HEAD = """# What is shipped, and under which licences

`make third-party` writes this page from the [software bill of materials](docs/releases.md) of what
the container image and `make install EXTRAS=…` install on Debian 12 and x86-64, in the versions of
`uv.lock`; a test compares them. Wheels for arm64 contain the same projects, or fewer.

- The service's own code is under the [MIT licence](LICENSE), its model weights under [CC BY-SA
  4.0](superres/models/README.md#licence). The wheel contains these and two libraries of the page,
  `client-zip` (MIT) and `idb-keyval` (Apache 2.0), with [their
  texts](superres/web/page/vendor/licences.txt), and the page's example photograph (CC0). Everything
  below is a package of its own, from PyPI.
- Each package's licence text is in its `*.dist-info` folder, in the container image below
  `/srv/super-resolution/.venv/lib/`. Two packages forget theirs: flask-cors and obstore, both MIT.
- **LGPL**: FFmpeg, libheif, libde265, psycopg, libquadmath, libcrypt and libkeyutils are shared
  libraries or Python modules, which anyone may replace with builds of their own; whoever passes on
  an image or an installation that contains them must let others do so, and offer these libraries'
  source, which their projects publish. They leave the licence of the service's own code as it is.
- **GPL**: none, except libgfortran with the exception for compiled programs.
- The container image contains Debian's packages besides; their texts are in
  `/usr/share/doc/*/copyright` there.
- The extra `gpu`, which is not in the table, installs PyTorch (BSD-3-Clause) and NVIDIA's CUDA
  libraries, which are proprietary: read [NVIDIA's terms](https://docs.nvidia.com/cuda/eula/) before
  you pass on an image with it.

This is a list of facts, not legal advice.
"""


def find_licence(component: Component) -> str:
    """Return a component's licence as SPDX writes it."""
    if component["name"] in LICENCES:
        return LICENCES[component["name"]]
    listed = component.get("licenses", ())
    found = [each.get("expression") or each["license"].get("id") for each in listed]
    if not any(found):
        sys.exit(f"{component['name']}: which licence? LICENCES has none.")
    return " AND ".join(each for each in found if each)


def find_library(file_name: str) -> tuple[str, str]:
    """Return the project of a shared library, and its licence."""
    for pattern, project, licence in LIBRARIES:
        if re.match(rf"{pattern}(?![a-z])", file_name):
            return project, licence
    sys.exit(f"{file_name}: which licence? LIBRARIES has none.")


def list_bundled(package: Component) -> dict[str, str]:
    """Return what a package's wheel brings along: names -> licences."""
    parts = package.get("components", [])
    crates = [each for each in parts if each.get("purl", "").startswith("pkg:cargo")]
    named = {
        each["name"]: find_licence(each)
        for each in parts
        if each.get("licenses") and each not in crates and not each["name"].startswith("PIL.")
    }
    libraries = [find_library(each["name"]) for each in parts if each["type"] == "file"]
    if crates:
        ours = sorted({word for each in crates for word in split_licence(find_licence(each))})
        named["Rust crates, listed in the bill"] = ", ".join(ours)
    bundled = dict(libraries) | named | LINKED.get(package["name"], {})
    return {name: licence for name, licence in bundled.items() if name not in ABSENT}


def split_licence(expression: str) -> list[str]:
    """Return the licences in an SPDX expression, however they are combined."""
    return [each.strip(" ()") for each in re.split(r" (?:AND|OR) +", expression)]


def render(bill: Component) -> Iterator[str]:
    """Yield the page."""
    packages = sorted(bill["components"], key=lambda each: str(each["name"]).lower())
    yield HEAD
    yield "## Packages\n\n| package | version | licence |\n|---|---|---|"
    for each in packages:
        yield f"| {each['name']} | {each['version']} | {find_licence(each)} |"
    yield "\n## In their wheels\n\n| package | contains |\n|---|---|"
    for each in packages:
        if bundled := list_bundled(each):
            parts = (f"{name} ({bundled[name]})" for name in sorted(bundled, key=str.lower))
            yield f"| {each['name']} | {', '.join(parts)} |"


if __name__ == "__main__":
    print("\n".join(render(json.loads(Path(sys.argv[1]).read_bytes()))))
