"""Runs the repository's nginx.conf on loopback, with its own certificate."""

import base64
import hashlib
import os
import re
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from superres.paths import PROJECT_DIR
from testkit.service import find_free_port

HOST = "sr.example"
START_SECONDS = 20
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


def write_configuration(
    folder: Path, app_ports: Sequence[int], port: int, plain_port: int, **changes: str
) -> Path:
    """Write nginx.conf with this test's ports, folders and `changes` in place of the system's.

    A change of `rate` applies to all request limits.
    """
    text = (PROJECT_DIR / "nginx.conf").read_text()
    for there, here in {
        "    listen [::]:80 default_server;\n": "",
        "    listen [::]:80;\n": "",
        "    listen [::]:443 ssl http2 default_server;\n": "",
        "    listen [::]:443 ssl http2;\n": "",
        "listen 80": f"listen 127.0.0.1:{plain_port}",
        "listen 443": f"listen 127.0.0.1:{port}",
        "server 127.0.0.1:7860 ": " ".join(
            f"server 127.0.0.1:{each} max_fails=3;" for each in app_ports[1:]
        )
        + f"server 127.0.0.1:{app_ports[0]} ",
        "/etc/ssl/sr.example": str(folder),
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
def run_nginx(folder: Path, *app_ports: int, **changes: str) -> Iterator[Nginx]:
    """Run Nginx in front of services until the block ends; `changes` override values by name."""
    folder.mkdir()
    port, plain_port = find_free_port(), find_free_port()
    make_certificate(folder)
    main = write_configuration(folder, app_ports, port, plain_port, **changes)
    command = ["nginx", "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(main)]
    subprocess.run([*command, "-t"], check=True, capture_output=True, timeout=30)
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
