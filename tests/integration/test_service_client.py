"""The command-line client against wrong servers, failing ones, and ones that refuse."""

import json
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from superres.cli.service_answers import EnhanceError
from superres.cli.service_client import MAX_ATTEMPTS, RemoteEnhancer, check_url
from testkit.command_line import command, draw, names_in, run
from testkit.service import Service, find_free_port, run_light_service
from testkit.serving import serving
from testkit.waiting import WAIT_SECONDS


class Handler(BaseHTTPRequestHandler):
    """Responds, without logging to the terminal."""

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def answer_found(self, exists: bool = True) -> None:
        """Respond that there is a result, or where it would be."""
        url = f"http://{self.headers['Host']}/cache/x.png"
        self.answer(200, json.dumps({"exists": exists, "url": url}).encode())

    def log_message(self, *_arguments: object) -> None:
        pass


@contextmanager
def serve(handler: type[Handler], port: int = 0) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    with serving(server):
        yield server


def url_of(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


class BusyHandler(Handler):
    """Is busy twice, then has the result."""

    attempts: list[float]

    def do_GET(self) -> None:
        if self.path.startswith("/api/result"):
            self.attempts.append(time.monotonic())
            if len(self.attempts) < 3:
                return self.answer(503, b'{"error": "later"}', Retry_After="1")
            return self.answer_found()
        return self.answer(200, b"the result")


def test_busy_service_is_asked_again_when_it_says(tmp_path: Path) -> None:
    BusyHandler.attempts = []
    picture = draw(tmp_path / "a.png", 16)
    with serve(BusyHandler) as server:
        done = run(picture, "-o", tmp_path / "out", "--url", url_of(server))
    assert done.returncode == 0, done.stderr
    first, second, third = BusyHandler.attempts
    assert second - first >= 1
    assert third - second >= 1
    assert (tmp_path / "out" / "a_x3.png").read_bytes() == b"the result"
    assert names_in(tmp_path / "out") == {"a_x3.png"}


def enlarge_three(folder: Path, url: str, **environment: str) -> str:
    """Run the client with three images, all of which fail; return what it prints."""
    for seed in range(3):
        draw(folder / "in" / f"{seed}.png", seed)
    done = run(folder / "in", "-o", folder / "out", "--url", url, **environment)
    assert done.returncode == 1, done.stderr
    assert "0 of 3 images upscaled" in done.stderr
    assert done.stderr.count("error: ") == 1
    assert names_in(folder / "out") == set()
    return done.stderr


def test_closed_port_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{find_free_port()}"
    assert f"Nothing is listening at {url}" in enlarge_three(tmp_path, url)


def test_unknown_name_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    assert "sr.invalid cannot be resolved" in enlarge_three(tmp_path, "http://sr.invalid")


def test_proxy_that_was_asked_is_named(tmp_path: Path) -> None:
    proxy = f"http://127.0.0.1:{find_free_port()}"
    words = enlarge_three(tmp_path, "http://sr.invalid", HTTP_PROXY=proxy, NO_PROXY="")
    assert "NO_PROXY=sr.invalid" in words


class HangingUp(Handler):
    """Closes each connection without a response, like a server that expects TLS."""

    def do_GET(self) -> None:
        self.close_connection = True


class LoginPage(Handler):
    """Shown to everybody, with status 200, by a proxy that requires a login."""

    status = 200

    def do_GET(self) -> None:
        self.answer(self.status, b"<h1>Log in</h1>", Content_Type="text/html; charset=utf-8")


class RefusingPage(LoginPage):
    """A proxy that does not let anybody through."""

    status = 403


class OtherJson(Handler):
    """Some other service."""

    def do_GET(self) -> None:
        self.answer(200, b"[]", Content_Type="application/json")


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (HangingUp, "closed the connection"),
        (LoginPage, "answered 200 with text/html"),
        (RefusingPage, "answered 403 with text/html"),
        (OtherJson, "answered 200 with application/json"),
    ],
)
def test_what_is_no_service_ends_the_run(
    tmp_path: Path, handler: type[Handler], words: str
) -> None:
    with serve(handler) as server:
        assert words in enlarge_three(tmp_path, url_of(server))


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    path = tmp_path / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost", "-out", path, "-keyout", path),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return path


class Existing(Handler):
    """Has every result already."""

    def do_GET(self) -> None:
        if self.path.startswith("/api/result"):
            url = f"{self.scheme}://{self.headers['Host']}/cache/x.png"
            return self.answer(200, json.dumps({"exists": True, "url": url}).encode())
        return self.answer(200, b"the result", Content_Type="image/png")

    scheme = "http"


class ExistingByTls(Existing):
    """The same with TLS."""

    scheme = "https"


@contextmanager
def serve_tls(certificate: Path) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = ThreadingHTTPServer(("127.0.0.1", 0), ExistingByTls)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    # Ignore errors from a client that does not trust the certificate.
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    with serving(server):
        yield server.server_port


def test_untrusted_certificate_ends_the_run_and_says_how_to_trust_it(
    tmp_path: Path, certificate: Path
) -> None:
    with serve_tls(certificate) as port:
        assert "set SSL_CERT_FILE" in enlarge_three(tmp_path, f"https://localhost:{port}")
        trusting = {"SSL_CERT_FILE": str(certificate)}
        words = enlarge_three(tmp_path, f"https://127.0.0.1:{port}", **trusting)
        assert "is for another name" in words
        arguments = (tmp_path / "in", "-o", tmp_path / "out", "--url", f"https://localhost:{port}")
        done = run(*arguments, **trusting)
    assert done.returncode == 0, done.stderr


def test_tls_that_a_plain_server_does_not_speak_is_named(tmp_path: Path) -> None:
    with serve(Existing) as server:
        url = f"https://127.0.0.1:{server.server_port}"
        assert "does not speak TLS" in enlarge_three(tmp_path, url)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"SSL_CERT_FILE": "/missing.pem"}, "SSL_CERT_FILE"),
        ({"ALL_PROXY": "gopher://127.0.0.1"}, "ALL_PROXY"),
        ({"SR_API_KEY": "k\u00e9y"}, "SR_API_KEY"),
    ],
)
def test_environment_that_cannot_be_used_is_named(
    tmp_path: Path, variables: dict[str, str], words: str
) -> None:
    picture = draw(tmp_path / "a.png", 1)
    done = run(picture, "-o", tmp_path / "out", **variables)
    assert done.returncode == 2, done.stderr
    assert "error: " in done.stderr
    assert words in done.stderr


def test_service_that_restarts_in_the_middle_is_asked_again(tmp_path: Path) -> None:
    closed = threading.Event()

    class Leaving(Handler):
        """Responds once, and is gone before the result can be fetched."""

        def do_GET(self) -> None:
            server.socket.close()
            self.answer_found()
            closed.set()

    out = tmp_path / "out"
    picture = draw(tmp_path / "a.png", 1)
    ended = []
    with serve(Leaving) as server:
        arguments = (picture, "-o", out, "--url", url_of(server))
        client = threading.Thread(target=lambda: ended.append(run(*arguments)))
        client.start()
        assert closed.wait(60)
        # Meanwhile the client finds the port closed.
        time.sleep(1)
        with serve(Existing, server.server_port):
            client.join()
    assert ended[0].returncode == 0, ended[0].stderr
    assert (out / "a_x3.png").read_bytes() == b"the result"


def test_host_of_the_result_that_does_not_listen_is_named(tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{find_free_port()}"

    class Misplaced(Handler):
        """Links results to a dead URL, like a wrong SR_PUBLIC_URL."""

        def do_GET(self) -> None:
            url = f"{nowhere}/cache/x.png"
            self.answer(200, json.dumps({"exists": True, "url": url}).encode())

    picture = draw(tmp_path / "a.png", 1)
    with serve(Misplaced) as server:
        done = run(picture, "-o", tmp_path / "out", "--url", url_of(server))
    assert done.returncode == 1
    assert f"a.png: Nothing is listening at {nowhere}" in done.stderr


def test_page_in_place_of_a_result_is_not_kept(tmp_path: Path) -> None:
    class Paging(LoginPage):
        """Lets API requests through, but requires a login for results."""

        def do_GET(self) -> None:
            if self.path.startswith("/api/result"):
                return self.answer_found()
            return super().do_GET()

    picture = draw(tmp_path / "a.png", 1)
    with serve(Paging) as server:
        done = run(picture, "-o", tmp_path / "out", "--url", url_of(server))
    assert done.returncode == 1
    assert "text/html" in done.stderr
    assert names_in(tmp_path / "out") == set()


def test_connection_that_breaks_again_and_again_fails_its_picture_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    class Breaking(Handler):
        """Closes the connection in the middle of each upload."""

        def do_GET(self) -> None:
            self.answer_found(exists=False)

        def do_POST(self) -> None:
            attempts.append(self.path)
            self.close_connection = True

    monkeypatch.setattr("superres.cli.service_client.MAX_PAUSE_SECONDS", 0.01)
    with serve(Breaking) as server:
        enhancer = RemoteEnhancer(url_of(server), {})
        with pytest.raises(EnhanceError, match="closed the connection"):
            enhancer.enhance(b"a picture", lambda _share: None)
        enhancer.stop()
    assert len(attempts) == MAX_ATTEMPTS


def test_second_interrupt_ends_at_once_though_no_answer_comes(tmp_path: Path) -> None:
    picture = draw(tmp_path / "a.png", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        arguments = command(picture, "-o", tmp_path / "out", "--url", url)
        process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
        assert process.stderr
        connection, _ = silent.accept()
        with connection:
            process.send_signal(signal.SIGINT)
            assert "press Ctrl-C again" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            assert process.wait(WAIT_SECONDS) == 130
        process.stderr.close()
    assert names_in(tmp_path / "out") == set()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    with run_light_service(folder, max_upload_bytes=250_000) as running:
        yield running


def test_upload_follows_where_the_service_was_redirected(service: Service, tmp_path: Path) -> None:
    posts = []

    class Redirecting(Handler):
        """Redirects everything with 301, which would turn an upload into a GET."""

        def do_GET(self) -> None:
            self.answer(301, b"", Location=service.url + self.path)

        def do_POST(self) -> None:
            posts.append(self.path)
            self.do_GET()

    picture = draw(tmp_path / "a.png", 1)
    with serve(Redirecting) as server:
        done = run(picture, "-o", tmp_path / "out", "--url", url_of(server))
    assert done.returncode == 0, done.stderr
    assert posts == []


def test_refusals_of_the_service_reach_the_user(service: Service, tmp_path: Path) -> None:
    draw(tmp_path / "in" / "1 good.png", 1)
    whole = draw(tmp_path / "in" / "2 cut.png", 2, 400).read_bytes()
    (tmp_path / "in" / "2 cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "in" / "3 large.png").write_bytes(whole + bytes(300_000))
    (tmp_path / "in" / "4 empty.png").write_bytes(b"")
    done = run(tmp_path / "in", "-o", tmp_path / "out", "--url", f"{service.url}/")
    assert done.returncode == 1
    assert "1 of 4 images upscaled" in done.stderr
    for words in (
        "2 cut.png: The file is cut short: about 50 %",
        "3 large.png: The ",
        "4 empty.png: The file is empty",
    ):
        assert words in done.stderr
    lost = enlarge_three(tmp_path / "path", f"{service.url}/somewhere")
    assert f"{service.url}/somewhere/api/result" in lost


def test_limit_of_requests_ends_the_run(tmp_path: Path) -> None:
    with run_light_service(tmp_path / "service", rate_limit_requests="1/day") as service:
        draw(tmp_path / "first.png", 9)
        first = run(tmp_path / "first.png", "-o", tmp_path / "out", "--url", service.url)
        assert first.returncode == 1
        assert "Try again in " in first.stderr
        assert "Try again in " in enlarge_three(tmp_path / "more", service.url)


def test_check_url_leaves_what_follows_the_address_out() -> None:
    for text in ("http://sr.example", "http://sr.example/", " http://sr.example/api/enhance "):
        assert check_url(text) == "http://sr.example"
    assert check_url("https://sr.example:8443/below/") == "https://sr.example:8443/below"
    assert check_url("http://[::1]:7860") == "http://[::1]:7860"


@pytest.mark.parametrize(
    ("text", "example"),
    [
        ("localhost:7860", "http://localhost:7860"),
        ("sr.example", "http://sr.example"),
        ("sr.example/below/", "http://sr.example/below"),
        ("//sr.example", "http://sr.example"),
        ("//sr.example:8443/api/enhance", "http://sr.example:8443"),
        ("://sr.example", "http://sr.example"),
        ("http:/sr.example", "http://sr.example"),
        ("https:sr.example", "https://sr.example"),
        ("https//sr.example", "https://sr.example"),
        ("HTTPS:///sr.example", "https://sr.example"),
        ("https:8443", "https://8443"),
        ("[::1]:7860", "http://[::1]:7860"),
        ("ftp://sr.example", "http://localhost:7860"),
        ("/sr.example?x", "http://localhost:7860"),
        ("http://", "http://localhost:7860"),
        ("", "http://localhost:7860"),
    ],
)
def test_check_url_of_half_an_address_shows_the_whole(text: str, example: str) -> None:
    with pytest.raises(ValueError, match=rf"looks like {re.escape(example)}$"):
        check_url(text)
