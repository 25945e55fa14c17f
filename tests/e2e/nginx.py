"""Runs the repository's nginx.conf on loopback, with its own certificate.

With the installed Nginx or, if NGINX_ROOT names the folder of another Debian, with that one's
(`make test-nginx`).
"""

import base64
import hashlib
import json
import os
import re
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import httpx
import pytest

from superres.paths import PROJECT_DIR
from testkit.service import find_free_port, unshare_mounts
from testkit.waiting import START_SECONDS
from tests.e2e.http3 import Http3Transport

HOST = "sr.example"
# Sees this machine's temporary files, where the tests write theirs.
IN_ROOT = 'mount --bind "$1" "$0$1" && root=$0 && shift && exec chroot "$root" nginx "$@"'
MAIN = """
{user}
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
worker_processes 2;
events {{ worker_connections 512; }}
http {{
    log_format tests "$request_uri $status $upstream_cache_status $sent_http_content_type";
    access_log {folder}/access.log tests;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    # So that a test can be many clients.
    set_real_ip_from 127.0.0.1;
    real_ip_header X-Test-Address;
    include {folder}/super-resolution.conf;
}}
"""


@dataclass
class Nginx:
    """A running Nginx."""

    port: int
    plain_port: int
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """Return the URL as a client sees it, except for the name."""
        return f"https://{HOST}:{self.port}"

    def client(self) -> httpx.Client:
        """Return a client that trusts the certificate and reaches the name on loopback."""
        context = ssl.create_default_context(cafile=str(self.folder / "fullchain.pem"))
        return httpx.Client(
            base_url=f"https://127.0.0.1:{self.port}",
            headers={"Host": f"{HOST}:{self.port}"},
            verify=context,
            timeout=60,
            event_hooks={"request": [self._name_server]},
        )

    def http3_client(self) -> httpx.Client:
        """Return a client that speaks HTTP/3, whose Host has no port (nginx.conf)."""
        transport = Http3Transport(self.port, HOST, self.folder / "fullchain.pem")
        return httpx.Client(
            base_url=f"https://{HOST}", headers={"Host": HOST}, transport=transport, timeout=60
        )

    def answers(self, path: str) -> list[str]:
        """Return status, cache status and media type of the answers below a path so far."""
        lines = (self.folder / "access.log").read_text().splitlines()
        return [line.partition(" ")[2] for line in lines if line.startswith(path)]

    @property
    def key_hash(self) -> str:
        """The hash by which Chromium can be told to trust the certificate."""
        certificate = (self.folder / "fullchain.pem").read_text()
        public = ["openssl", "x509", "-noout", "-pubkey"]
        pem = subprocess.run(public, input=certificate.encode(), capture_output=True, check=True)
        to_der = ["openssl", "pkey", "-pubin", "-outform", "der"]
        der = subprocess.run(to_der, input=pem.stdout, capture_output=True, check=True)
        return base64.b64encode(hashlib.sha256(der.stdout).digest()).decode()

    @staticmethod
    def _name_server(request: httpx.Request) -> None:
        request.extensions["sni_hostname"] = HOST


def make_certificate(folder: Path) -> None:
    """Write a self-signed certificate and its key."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", f"/CN={HOST}", "-addext"),
            *(f"subjectAltName=DNS:{HOST}", "-keyout", "privkey.pem", "-out", "fullchain.pem"),
        ],
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=30,
    )


def nginx_command() -> list[str]:
    """Return how Nginx is called."""
    if root := os.environ.get("NGINX_ROOT"):
        return [*unshare_mounts(), "sh", "-c", IN_ROOT, root, tempfile.gettempdir()]
    return ["nginx"]


@cache
def has_http3() -> bool:
    """Tell whether this Nginx can speak HTTP/3, rather than being older."""
    shown = subprocess.run([*nginx_command(), "-v"], capture_output=True, text=True, check=True)
    version = re.search(r"nginx/([\d.]+)", shown.stderr)
    assert version is not None, shown.stderr
    return tuple(map(int, version[1].split("."))) >= (1, 25, 1)


def needs_http3() -> pytest.MarkDecorator:
    """Return the mark of a test, or of a parameter, that needs HTTP/3."""
    return pytest.mark.skipif(
        not has_http3(), reason="this Nginx has no HTTP/3: make test-nginx brings one"
    )


def read_configuration(is_http3: bool) -> str:
    """Read nginx.conf, changed for this Nginx by the commands that it has at its top."""
    path = PROJECT_DIR / "nginx.conf"
    text = path.read_text()
    for_older, for_http3 = re.findall(r"^#   sed -i '(.*)' /etc/nginx/conf\.d/", text, re.M)
    changes = [for_older] * (not has_http3()) + [for_http3] * is_http3
    command = ["sed", ";".join(changes), str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def write_configuration(
    folder: Path,
    app_ports: Sequence[int],
    port: int,
    plain_port: int,
    is_http3: bool = False,
    **changes: str,
) -> Path:
    """Write nginx.conf with this test's ports, folders and `changes` in place of the system's.

    A change of `rate` applies to all request limits.
    """
    text = re.sub(r".* listen \[::\].*\n", "", read_configuration(is_http3))
    for there, here in {
        "listen 80": f"listen 127.0.0.1:{plain_port}",
        "listen 443": f"listen 127.0.0.1:{port}",
        "server 127.0.0.1:7860 ": " ".join(
            f"server 127.0.0.1:{each} max_fails=3;" for each in app_ports[1:]
        )
        + f"server 127.0.0.1:{app_ports[0]} ",
        "/etc/ssl/sr.example": str(folder),
        "/var/www/acme": str(folder / "acme"),
        "/var/cache/nginx/super-resolution": str(folder / "cache"),
        "/etc/nginx/super-resolution": str(folder / "deploy"),
    }.items():
        assert there in text, there
        text = text.replace(there, here)
    for name, value in changes.items():
        text, found = re.subn(rf"\b{name}([= ])[^ ;]+", rf"{name}\g<1>{value}", text)
        assert found, name
    (folder / "super-resolution.conf").write_text(text)
    (folder / "deploy").mkdir()
    for snippet in (PROJECT_DIR / "deploy").glob("nginx-*.conf"):
        content = snippet.read_text().replace("/etc/nginx/super-resolution", f"{folder}/deploy")
        (folder / "deploy" / snippet.name).write_text(content)
    main = folder / "main.conf"
    user = "user root;" if os.getuid() == 0 else ""
    main.write_text(MAIN.format(folder=folder, user=user))
    return main


@contextmanager
def run_nginx(
    folder: Path, *app_ports: int, is_http3: bool = False, **changes: str
) -> Iterator[Nginx]:
    """Run Nginx in front of services until the block ends; `changes` override values by name."""
    folder.mkdir()
    port, plain_port = find_free_port(), find_free_port()
    make_certificate(folder)
    main = write_configuration(folder, app_ports, port, plain_port, is_http3, **changes)
    command = [
        *nginx_command(),
        *("-p", str(folder), "-e", str(folder / "error.log"), "-c", str(main)),
    ]
    tested = subprocess.run([*command, "-t"], capture_output=True, text=True, timeout=30)
    assert (tested.returncode, "[warn]" in tested.stderr) == (0, False), tested.stderr
    process = subprocess.Popen([*command, "-g", "daemon off;"])
    nginx = Nginx(port, plain_port, folder, process)
    try:
        wait_until_listening(nginx)
        yield nginx
    finally:
        process.terminate()
        process.wait(30)


def wait_until_listening(nginx: Nginx) -> None:
    """Wait until Nginx responds; raise if it does not."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with nginx.client() as client:
                client.get("/metrics")
        except httpx.TransportError:
            if nginx.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((nginx.folder / "error.log").read_text()) from None
            time.sleep(0.05)
        else:
            return


def assert_problem(response: httpx.Response, status: int, code: str) -> None:
    """Check an error of Nginx itself, asked for by a page of another origin."""
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers.get_list("Access-Control-Allow-Origin") == ["*"]
    assert response.headers["Cache-Control"] == "no-store, must-revalidate"
    body = json.loads(response.content)
    assert (body["status"], body["code"]) == (status, code)
    assert body["request_id"] == response.headers["X-Request-ID"]
