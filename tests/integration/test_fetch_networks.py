"""Where sources may be: host names, networks, redirects and certificates."""

import ssl
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from superres.errors import SourceRefused, SourceTimeout, SourceUnavailable
from superres.setting_parsers import parse_networks
from superres.sources import connections
from superres.sources.connections import resolve_name
from superres.sources.fetcher import Fetched, Fetcher
from superres.sources.public_networks import Address
from testkit.fetching import BODY, LOOP_ID, MAX_BYTES, OK, Names, content, fetch, make_fetcher
from testkit.source_server import (
    Page,
    SourceServer,
    make_certificate,
    run_raw_server,
    send_forever,
    stay_silent,
)
from testkit.waiting import wait_until

# --- host names


def test_resolver_that_hangs_holds_nobody(
    sources: SourceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "RESOLUTIONS_AT_ONCE", 3)
    may_end = threading.Event()
    running: list[str] = []

    def resolve(host: str, port: int) -> Sequence[Address]:
        if host == "hangs.example":
            running.append(host)
            may_end.wait()
        return resolve_name("127.0.0.1", port)

    sources.pages["/a"] = Page(BODY)
    tried = Fetcher(MAX_BYTES, parse_networks("127.0.0.1/32"), LOOP_ID, resolve)

    def hang() -> None:
        with monkeypatch.context() as patch, pytest.raises(SourceTimeout):
            patch.setattr(connections, "RESOLVE_SECONDS", 0.05)
            tried.fetch("http://hangs.example/")

    try:
        for _ in range(2):
            hang()
        found = tried.fetch(sources.url("/a", "other.example"))
        assert isinstance(found, Fetched)
        assert content(found) == BODY
        wait_until(lambda: sum(t.name == "resolve-source" for t in threading.enumerate()) == 2)
        # There are no more threads for names than these.
        for _ in range(4):
            hang()
        wait_until(lambda: len(running) == 3)
    finally:
        may_end.set()
    wait_until(lambda: all(t.name != "resolve-source" for t in threading.enumerate()))
    found = tried.fetch(sources.url("/a", "hangs.example"))
    assert isinstance(found, Fetched)
    found.file.close()


def test_host_without_address_is_unavailable() -> None:
    def fail(error: Exception) -> Callable[[str, int], Sequence[Address]]:
        def resolve(_host: str, _port: int) -> Sequence[Address]:
            raise error

        return resolve

    def find_nothing(_host: str, _port: int) -> Sequence[Address]:
        return []

    for resolve in (fail(OSError("secret")), fail(UnicodeError("secret")), find_nothing):
        with pytest.raises(SourceUnavailable) as caught:
            Fetcher(MAX_BYTES, (), LOOP_ID, resolve).fetch("http://a.example/")
        assert "secret" not in caught.value.message
    for url in ("http://.a.example/", f"http://{'a' * 64}.example/", "http://a..example/"):
        with pytest.raises(SourceUnavailable):
            make_fetcher().fetch(url)


def test_closed_port_is_unavailable_and_other_addresses_are_tried(sources: SourceServer) -> None:
    sources.pages["/a"] = Page(BODY)
    names = Names(a_example=["127.0.0.2 127.0.0.1"])
    tried = make_fetcher(names, "127.0.0.0/8")
    found = tried.fetch(sources.url("/a", "a.example"))
    assert isinstance(found, Fetched)
    assert content(found) == BODY
    with pytest.raises(SourceUnavailable):
        tried.fetch(sources.url("/a", "127.0.0.3"))


# --- networks


LOOPBACK = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "0",
    "0.0.0.0",
    "2130706433",
    "017700000001",
    "0x7f000001",
    "0X7F.0.0.1",
    "0177.0.0.1",
    "0x7f.1",
    "127.0.0.01",
    "localhost",
    "LOCALHOST",
    "①②⑦.0.0.1",
    "127。0。0。1",
    "\uff11\uff12\uff17.1",
    "[::1]",
    "[::]",
    "[0:0::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::FFFF:0:1]",
    "[::127.0.0.1]",
]
OTHERS = [
    "10.0.0.1",
    "012.0.0.1",
    "0xa.1",
    "167772161",
    "192.168.1",
    "172.16.1",
    "100.64.0.1",
    "100.100.100.200",
    "168.63.129.16",
    "0xa83f8110",
    "169.254.169.254",
    "2852039166",
    "0xA9FEA9FE",
    "0251.0376.0251.0376",
    "169.254.43518",
    "192.0.0.192",
    "224.0.0.1",
    "255.255.255.255",
    "[fe80::1]",
    "[fd00:ec2::254]",
    "[fd20:ce::254]",
    "[fec0::1]",
    "[ff02::1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::169.254.169.254]",
    "[64:ff9b:1::1]",
    "[2002:7f00:1::]",
    "[2002:a9fe:a9fe::1]",
    "[2001:0:7f00:1::1]",
    "[2001::1]",
    "[::a9fe:a9fe]",
    "[::ffff:0:127.0.0.1]",
]


@pytest.mark.parametrize("host", LOOPBACK + OTHERS)
def test_address_that_is_not_public_is_refused_in_all_spellings(host: str) -> None:
    with run_raw_server(stay_silent, reads_head=False) as raw:
        with pytest.raises(SourceRefused):
            make_fetcher(networks="").fetch(raw.url(host))
        assert raw.connections == 0


@pytest.mark.parametrize(
    "host", ["metadata.example", "Metadata.Example.", "\uff4detadata。example"]
)
def test_name_of_such_an_address_is_refused(host: str) -> None:
    for text in ("169.254.169.254", "fd00:ec2::254", "8.8.8.8 127.0.0.1", "::ffff:10.0.0.1"):
        names = Names(**{"metadata.example": [text], "metadata.example.": [text]})
        with run_raw_server(stay_silent, reads_head=False) as raw:
            with pytest.raises(SourceRefused):
                make_fetcher(names, "").fetch(raw.url(host))
            assert raw.connections == 0
        assert len(names.asked) == 1


def test_name_that_is_bound_to_another_address_afterwards_leads_where_it_was_checked() -> None:
    names = Names(a_example=["127.0.0.1", "127.0.0.2"])
    with (
        run_raw_server(lambda peer: peer.sendall(OK + b"\r\n" + BODY)) as public,
        run_raw_server(stay_silent, None, ("127.0.0.2", public.port)) as private,
    ):
        tried = make_fetcher(names)
        found = tried.fetch(public.url("a.example"))
        assert isinstance(found, Fetched)
        assert content(found) == BODY
        assert names.asked == ["a.example"]
        # The next fetch finds the other one, and refuses it.
        with pytest.raises(SourceRefused):
            tried.fetch(public.url("a.example"))
        assert (public.connections, private.connections) == (1, 0)
        assert b"Host: a.example:%d\r\n" % public.port in public.heads[0]


def test_name_that_is_bound_to_another_address_for_a_redirect_is_refused() -> None:
    names = Names(a_example=["127.0.0.1", "127.0.0.2"])
    redirect = b"HTTP/1.1 302 X\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n"
    with (
        run_raw_server(lambda peer: peer.sendall(redirect)) as public,
        run_raw_server(stay_silent, None, ("127.0.0.2", public.port)) as private,
    ):
        with pytest.raises(SourceRefused):
            make_fetcher(names).fetch(public.url("a.example"))
        assert (public.connections, private.connections) == (1, 0)


@pytest.mark.parametrize("hops", [0, 1, 2])
@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.2:{port}/",
        "//127.2:{port}/",
        "http://0x7f.0.0.2:{port}/",
        "http://2130706434:{port}/",
        "http://[::ffff:127.0.0.2]:{port}/",
        "http://[::1]:{port}/",
        "http://private.example:{port}/",
        "https://private.example:{port}/",
        "http://169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
        "ftp://127.0.0.1:{port}/",
        "gopher://127.0.0.1:{port}/_x",
        "http://user:password@127.0.0.1:{port}/",
        "http://[",
    ],
)
def test_each_redirect_is_checked(sources: SourceServer, location: str, hops: int) -> None:
    names = Names(private_example=["127.0.0.2"])
    with run_raw_server(
        stay_silent, None, ("127.0.0.2", sources.port), reads_head=False
    ) as private:
        for hop in range(hops):
            sources.pages[f"/{hop}"] = Page(b"", 307, {"Location": f"/{hop + 1}"})
        target = location.format(port=sources.port)
        sources.pages[f"/{hops}"] = Page(BODY, 302, {"Location": target})
        with pytest.raises(SourceRefused):
            make_fetcher(names).fetch(sources.url("/0"))
        assert private.connections == 0
    assert len(sources.requests) == hops + 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_three_redirects_are_followed_and_no_more(sources: SourceServer, status: int) -> None:
    for hop in range(4):
        body = b"not read" * 1000
        sources.pages[f"/r/{hop}"] = Page(body, status, {"Location": f"../r/{hop + 1}"})
    sources.pages["/r/4"] = Page(BODY)
    found = fetch(sources.url("/r/1"))
    assert content(found) == BODY
    assert [each.get("location") for each in found.answers] == ["../r/2", "../r/3", "../r/4", None]
    sources.requests.clear()
    with pytest.raises(SourceRefused):
        fetch(sources.url("/r/0"))
    assert len(sources.requests) == 4


def test_redirect_with_an_endless_body_is_followed(sources: SourceServer) -> None:
    sources.pages["/a"] = Page(BODY)
    start = f"HTTP/1.1 302 X\r\nLocation: {sources.url('/a')}\r\n\r\n".encode()
    with run_raw_server(send_forever(bytes(1000), start)) as raw:
        assert content(fetch(raw.url())) == BODY
        wait_until(lambda: raw.ended == 1)


def test_named_network_is_allowed_over_ipv6(sources: SourceServer) -> None:
    answer = OK + b"\r\n" + BODY
    with run_raw_server(lambda peer: peer.sendall(answer), None, ("::1", 0)) as raw:
        found = make_fetcher(networks="::1/128").fetch(raw.url("[0:0::1]"))
        assert isinstance(found, Fetched)
        assert content(found) == BODY
        assert b"Host: [::1]:%d\r\n" % raw.port in raw.heads[0]


# --- TLS


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    made = make_certificate(tmp_path, "good", "DNS:a.example,IP:127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(made[0]))
    return made


def serve_tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


def test_certificate_must_be_the_hosts_and_of_an_authority(
    authority: tuple[Path, Path], tmp_path: Path
) -> None:
    names = Names(a_example=["127.0.0.1"], b_example=["127.0.0.1"])

    def answer(peer: Any) -> None:
        peer.sendall(OK + b"\r\n" + BODY)
        peer.unwrap()

    with run_raw_server(answer, serve_tls(authority)) as raw:
        for host in ("a.example", "A.Example", "127.0.0.1"):
            found = make_fetcher(names).fetch(raw.url(host, "https"))
            assert isinstance(found, Fetched)
            assert content(found) == BODY
        with pytest.raises(SourceUnavailable):
            make_fetcher(names).fetch(raw.url("b.example", "https"))
        with pytest.raises(SourceUnavailable):
            make_fetcher(names).fetch(raw.url("a.example"))  # not over http
    other = make_certificate(tmp_path, "other", "DNS:a.example")
    with run_raw_server(answer, serve_tls(other)) as raw, pytest.raises(SourceUnavailable):
        make_fetcher(names).fetch(raw.url("a.example", "https"))


@pytest.mark.parametrize(("clock", "is_valid"), [("-1d", True), ("-3d", False), ("+1d", False)])
def test_certificate_must_be_valid_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: str, is_valid: bool
) -> None:
    certificate = make_certificate(tmp_path, "other", "IP:127.0.0.1", clock)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    answer = OK + b"\r\n" + BODY
    with run_raw_server(lambda peer: peer.sendall(answer), serve_tls(certificate)) as raw:
        if is_valid:
            assert content(fetch(raw.url(scheme="https"))) == BODY
        else:
            with pytest.raises(SourceUnavailable):
                fetch(raw.url(scheme="https"))


def test_redirect_may_lead_from_http_to_https_and_back(
    authority: tuple[Path, Path], sources: SourceServer
) -> None:
    sources.pages["/a"] = Page(BODY)
    redirect = f"HTTP/1.1 302 X\r\nLocation: {sources.url('/a')}\r\n\r\n".encode()
    with run_raw_server(lambda peer: peer.sendall(redirect), serve_tls(authority)) as raw:
        sources.pages["/start"] = Page(b"", 301, {"Location": raw.url(scheme="https")})
        assert content(fetch(sources.url("/start"))) == BODY
