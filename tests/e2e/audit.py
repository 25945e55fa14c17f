"""What third-party tools say about the deployment, as a page of Markdown.

    make audit > docs/audit.md

Nginx and the service run as in the tests. Exits with 1 if a tool finds something that is not
justified here.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
from PIL import Image
from skimage import data

from superres.paths import PROJECT_DIR
from testkit.pictures import encode
from testkit.service import run_service
from tests.e2e.nginx import HOST, Nginx, run_nginx

# REDbot queries DNS, which does not know the name.
REDBOT = """
import thor.dns
look_up = thor.dns._lookup
thor.dns._lookup = lambda host, port, kind: look_up(b"127.0.0.1", port, kind)
from redbot.cli import main
main()
"""
UNITS = ("super-resolution.service", "super-resolution-cleanup.service")


class Audit:
    """Runs tools, prints their output, and records whether one found something."""

    def __init__(self, tools: Path) -> None:
        self.tools = tools
        self.failed = False

    def ask(
        self, title: str, tool: str, *arguments: str, keep: str = "", expected: str = ""
    ) -> None:
        """Run a tool and print its output.

        Parameters
        ----------
        keep : pattern of the lines to show; by default all that are not empty
        expected : pattern that these lines must match; without it the tool must exit with 0
        """
        path = self.tools / tool
        command = [str(path) if path.exists() else tool, *arguments]
        done = subprocess.run(
            command, cwd=PROJECT_DIR, capture_output=True, text=True, timeout=300, check=False
        )
        output = "\n".join(
            line.rstrip()
            for line in done.stdout.splitlines()
            if line.strip() and re.search(keep, line)
        )
        print(f"## {title}\n\n```\n{output or 'no findings'}\n```\n", flush=True)
        if not re.search(expected, output) or (done.returncode != 0 and not expected):
            print(f"**{tool} ended with {done.returncode}**\n\n{done.stderr}", flush=True)
            self.failed = True


def audit_files(audit: Audit, nginx: Nginx) -> None:
    """Check the files that an operator installs."""
    audit.ask(
        "nginx.conf, by gixy-ng (such a response has these headers already)",
        *("gixy", str(nginx.folder / "super-resolution.conf")),
        expected=r"(?s)location @not_satisfiable.*Low: 0\n +Medium: 1\n +High: 0$",
    )
    audit.ask("Containerfile, by hadolint", "hadolint", "Containerfile")
    audit.ask("workflows, by zizmor", "zizmor", "--offline", "--quiet", ".github")
    audit.ask(
        "workflows, by GitHub's schema",
        *("check-jsonschema", "--builtin-schema", "vendor.github-workflows"),
        *map(str, sorted((PROJECT_DIR / ".github" / "workflows").iterdir())),
    )
    audit.ask(
        "dependabot.yml, by GitHub's schema",
        *("check-jsonschema", "--builtin-schema", "vendor.dependabot", ".github/dependabot.yml"),
    )
    audit.ask(
        "kubernetes.yaml and kubernetes-autoscaling.yaml, by Kubernetes' schemas",
        *("kubernetes-validate", "--strict"),
        *("deploy/kubernetes.yaml", "deploy/kubernetes-autoscaling.yaml"),
    )
    audit.ask(
        "compose.yaml and compose.replicas.yaml, by the Compose Specification's schema",
        *("check-jsonschema", "--builtin-schema", "vendor.compose-spec"),
        *("deploy/compose.yaml", "deploy/compose.replicas.yaml"),
    )
    audit.ask("alerts.yaml, by promtool", "promtool", "check", "rules", "deploy/alerts.yaml")
    audit.ask(
        "alerts.yaml against sample series, by promtool",
        *("promtool", "test", "rules", "tests/alerts_test.yaml"),
    )
    for unit in UNITS:
        audit.ask(
            f"{unit}, by systemd-analyze security",
            *("systemd-analyze", "security", "--offline=yes", "--no-pager", f"deploy/{unit}"),
            keep="✗|→",
        )


def audit_servers(audit: Audit, nginx: Nginx, result_path: str) -> None:
    """Check the running Nginx."""
    audit.ask(
        "TLS, by sslyze against Mozilla's intermediate profile (the certificate is self-signed)",
        *("sslyze", "--mozilla_config=intermediate", f"{HOST}:{nginx.port}{{127.0.0.1}}"),
        keep=r"TLS_|OK - |curves:  |Not compliant|^        \* ",
        expected=r"Not compliant\.\n +\* certificate_path_validation: .*$(?!\n)",
    )
    for path in (result_path, "/api/health"):
        audit.ask(
            f"{path}, by REDbot",
            *("python", "-c", REDBOT, "-o", "text", f"{nginx.url}{path}"),
            expected="200",
        )
    audit.ask(
        "HTTP/2, by curl",
        *("curl", "--silent", "--show-error", "--http2", "--head"),
        *("--cacert", str(nginx.folder / "fullchain.pem")),
        *("--resolve", f"{HOST}:{nginx.port}:127.0.0.1", f"{nginx.url}{result_path}"),
        expected="HTTP/2 200",
    )
    audit.ask(
        "HTTP/2, by h2load: 10,000 results over 10 connections of 10 streams",
        *("h2load", "--requests=10000", "--clients=10", "--max-concurrent-streams=10"),
        *(f"--connect-to=127.0.0.1:{nginx.port}", f"{nginx.url}{result_path}"),
        keep="protocol|Protocol|finished|requests:|time for",
        expected="10000 succeeded, 0 failed",
    )


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tools", type=Path, help="folder of the judges' commands")
    audit = Audit(parser.parse_args().tools)
    print("# Third-party audits\n\n`make --silent audit > docs/audit.md`, with Debian's")
    print("Nginx and a self-signed certificate.\n", flush=True)
    picture = encode(Image.fromarray(data.astronaut()[:128, :128]), "JPEG", quality=90)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            run_service(folder / "service", trusted_proxies=1) as service,
            run_nginx(
                folder / "nginx", httpx.URL(service.url).port or 0, rate="1000000r/s"
            ) as nginx,
            nginx.client() as client,
        ):
            link = client.post("/api/enhance", files={"image": picture}).links["canonical"]["url"]
            audit_files(audit, nginx)
            audit_servers(audit, nginx, httpx.URL(link).path)
    return 1 if audit.failed else 0


if __name__ == "__main__":
    sys.exit(main())
