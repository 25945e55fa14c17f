"""The fetcher and its sources: good ones, and whatever else a server may send."""

import errno
import gzip
import hashlib
import ipaddress
import ssl
import tempfile
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from superres.errors import (
    Busy,
    ServiceError,
    SourceNotFound,
    SourceRefused,
    SourceTimeout,
    SourceTooLarge,
    SourceUnavailable,
)
from superres.setting_parsers import parse_networks
from superres.sources import connections, fetcher
from superres.sources.connections import resolve_name
from superres.sources.fetcher import Fetched, Fetcher, Unchanged, Validators
from superres.sources.public_networks import Address
from testkit.hostile import packed_zeros
from testkit.source_server import (
    Page,
    RawServer,
    SourceServer,
    make_certificate,
    run_raw_server,
    send_forever,
    stay_silent,
)
from testkit.waiting import wait_until

MAX_BYTES = 1_000_000
BODY = b"an image" * 1000
OK = b"HTTP/1.1 200 OK\r\n"
LOOP_ID = "superres-0123"


class Names:
    """A resolver: each name has a list of answers, of which the last stays."""

    def __init__(self, **answers: Sequence[str]) -> None:
        self.answers = {name.replace("_", "."): [*each] for name, each in answers.items()}
        self.asked: list[str] = []

    def resolve(self, host: str, port: int) -> Sequence[Address]:
        self.asked.append(host)
        if host not in self.answers:
            return resolve_name(host, port)
        texts = self.answers[host]
        found = texts.pop(0) if len(texts) > 1 else texts[0]
        return [ipaddress.ip_address(text) for text in found.split()]


def make_fetcher(names: Names | None = None, networks: str = "127.0.0.1/32") -> Fetcher:
    return Fetcher(MAX_BYTES, parse_networks(networks), LOOP_ID, (names or Names()).resolve)


def fetch(url: str, known: Validators | None = None, names: Names | None = None) -> Fetched:
    found = make_fetcher(names).fetch(url, known)
    assert isinstance(found, Fetched)
    return found


def content(fetched: Fetched) -> bytes:
    with fetched.file as file:
        return file.read()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher, "FETCH_SECONDS", 0.4)


def send(answer: bytes, peer: Any) -> None:
    peer.sendall(answer)


def assert_fails(
    answer: bytes | Callable[[Any], None],
    error: type[ServiceError] | tuple[type[ServiceError], ...],
    reads_head: bool = True,
) -> RawServer:
    """Fetch from a server with this answer; its connection must have been closed."""
    if isinstance(answer, bytes):
        answer = partial(send, answer)
    with run_raw_server(
        send if isinstance(answer, bytes) else answer, None, reads_head=reads_head
    ) as raw:
        with pytest.raises(error):
            make_fetcher().fetch(raw.url())
        wait_until(lambda: raw.ended == raw.connections, "a connection has been left open")
    return raw


# --- what is sent and received


def test_file_is_fetched_as_it_is(sources: SourceServer) -> None:
    sources.pages["/a.png?b=c"] = Page(BODY, headers={"ETag": '"1"', "Set-Cookie": "a=b"})
    found = fetch(sources.url("/a.png?b=c#d"))
    assert content(found) == BODY
    assert found.key == hashlib.sha256(BODY).hexdigest()
    assert found.validators.etag == '"1"'
    (headers,) = sources.asked("/a.png?b=c")
    assert headers == {
        "Host": f"127.0.0.1:{sources.port}",
        "User-Agent": "superres",
        "Accept": "image/*",
        "Accept-Encoding": "identity",
        "CDN-Loop": LOOP_ID,
    }


def test_no_cookie_is_kept_and_no_proxy_is_used(
    sources: SourceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources.pages["/a"] = Page(b"", 302, {"Location": "/b", "Set-Cookie": "secret=1; Path=/"})
    sources.pages["/b"] = Page(BODY)
    with run_raw_server(stay_silent) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://user:secret@127.0.0.1:{proxy.port}")
        same = make_fetcher()
        for _ in range(2):
            found = same.fetch(sources.url("/a"))
            assert isinstance(found, Fetched)
            assert content(found) == BODY
        assert proxy.connections == 0
    for _, headers in sources.requests:
        assert not {"Cookie", "Authorization", "Proxy-Authorization", "Referer"} & headers.keys()


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Content-Length: 8000\r\n\r\n" + BODY,
        OK + b"Content-Length: 8000\r\nContent-Length: 8000\r\n\r\n" + BODY,
        OK + b"\r\n" + BODY,
        b"HTTP/1.0 200 OK\r\n\r\n" + BODY,
        b"HTTP/1.1 200\r\n\r\n" + BODY,
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK + b"\r\n" + BODY,
        OK + b"Transfer-Encoding: chunked\r\n\r\n1f40;x=y\r\n" + BODY + b"\r\n0\r\nX: y\r\n\r\n",
        OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(BODY, mtime=0),
        OK + b"Content-Encoding: X-GZip\r\n\r\n" + gzip.compress(BODY, mtime=0) + b"rest",
        OK + b"Content-Encoding: deflate\r\n\r\n" + zlib.compress(BODY),
        OK + b"Content-Encoding: identity\r\n\r\n" + BODY,
        # What follows the announced end does not count.
        OK + b"Content-Length: 8000\r\n\r\n" + BODY + b"HTTP/1.1 200 OK\r\n\r\nother",
    ],
)
def test_every_form_of_a_good_answer_is_read(answer: bytes) -> None:
    with run_raw_server(lambda peer: peer.sendall(answer)) as raw:
        assert content(fetch(raw.url())) == BODY


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 2OO OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 8001\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\nContent-Length: 0x10\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\nContent-Length: 8000\r\nContent-Length: 9\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\nContent-Length: 8000, 9\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1f40\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA\0: b\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\nA: b\0c\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 50_000 + b"\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 200_000 + b"\r\n\r\n" + BODY,
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
        OK + b"Content-Encoding: br\r\n\r\n" + BODY,
        OK
        + b"Content-Encoding: gzip, gzip\r\n\r\n"
        + gzip.compress(gzip.compress(BODY, mtime=0), mtime=0),
        OK + b"Content-Encoding: gzip\r\n\r\n" + BODY,
        OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(BODY, mtime=0)[:-9],
        OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(BODY, mtime=0)[:-8] + bytes(8),
        OK + b"Content-Encoding: gzip\r\n\r\n",
        OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"", mtime=0),
    ],
)
def test_malformed_answer_is_an_error_of_the_source(answer: bytes) -> None:
    assert_fails(answer, SourceUnavailable)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (201, SourceUnavailable),
        (204, SourceUnavailable),
        (206, SourceUnavailable),
        (300, SourceUnavailable),
        (301, SourceUnavailable),
        (304, SourceUnavailable),
        (401, SourceUnavailable),
        (403, SourceUnavailable),
        (404, SourceNotFound),
        (407, SourceUnavailable),
        (410, SourceNotFound),
        (418, SourceUnavailable),
        (429, SourceUnavailable),
        (500, SourceUnavailable),
        (503, SourceUnavailable),
        (999, SourceUnavailable),
    ],
)
def test_only_status_200_is_an_image(status: int, error: type[ServiceError]) -> None:
    answer = b"HTTP/1.1 %d X\r\nRetry-After: 9\r\n\r\n" % status
    assert_fails(answer if status in {204, 304} else answer + BODY, error)


def test_full_disk_is_no_failure_of_the_source(
    sources: SourceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources.pages["/a"] = Page(BODY)

    def fail(number: int) -> Callable[[], None]:
        def make() -> None:
            raise OSError(number, "secret")

        return make

    monkeypatch.setattr(tempfile, "TemporaryFile", fail(errno.ENOSPC))
    with pytest.raises(Busy):
        make_fetcher().fetch(sources.url("/a"))
    monkeypatch.setattr(tempfile, "TemporaryFile", fail(errno.EACCES))
    with pytest.raises(OSError, match="secret"):
        make_fetcher().fetch(sources.url("/a"))


# --- sizes


def test_file_may_have_so_many_bytes_and_no_more() -> None:
    for extra in (0, 1):
        body = bytes(MAX_BYTES + extra)
        for answer in (
            OK + b"Content-Length: %d\r\n\r\n" % len(body) + body,
            OK + b"\r\n" + body,
            OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(body, mtime=0),
            OK + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n",
        ):
            if extra:
                assert_fails(answer, SourceTooLarge)
            else:
                with run_raw_server(partial(send, answer)) as raw:
                    assert content(fetch(raw.url())) == body


def test_announced_size_is_refused_before_the_body() -> None:
    def answer(peer: Any) -> None:
        peer.sendall(OK + b"Content-Length: 1000001\r\n\r\n")
        stay_silent(peer)

    with run_raw_server(answer) as raw, pytest.raises(SourceTooLarge) as caught:
        make_fetcher().fetch(raw.url())
    assert caught.value.excess is not None
    assert caught.value.excess.actual == 1_000_001


# Deflate's blocks between a header of gzip and no end (RFC 1952).
BOMB = gzip.compress(b"")[:10] + packed_zeros(100)[2:-6]


@pytest.mark.parametrize(
    "answer",
    [
        send_forever(bytes(65536), OK + b"\r\n"),
        send_forever(
            b"10000\r\n" + bytes(65536) + b"\r\n", OK + b"Transfer-Encoding: chunked\r\n\r\n"
        ),
        send_forever(BOMB, OK + b"Content-Encoding: gzip\r\n\r\n"),
        # None of these has any content, however much is sent.
        send_forever(
            b"\0\0\0\xff\xff" * 10_000, OK + b"Content-Encoding: gzip\r\n\r\n" + BOMB[:10]
        ),
        send_forever(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
        send_forever(b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n" * 1000),
    ],
    ids=["body", "chunks", "gzip bomb", "empty blocks", "100", "103"],
)
def test_endless_answer_ends_within_bounded_memory(answer: Callable[[Any], None]) -> None:
    tracemalloc.start()
    try:
        assert_fails(answer, SourceTooLarge)
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()


def test_flood_of_small_pieces_ends() -> None:
    """Each takes as much of the processor's time as a large one."""
    start = OK + b"Transfer-Encoding: chunked\r\n\r\n"
    assert_fails(send_forever(b"1\r\nx\r\n" * 10_000, start), SourceUnavailable)


@pytest.mark.parametrize(
    "answer",
    [
        send_forever(b"A: b\r\n" * 1000, OK),
        send_forever(b"b" * 1000, OK + b"A: "),
        send_forever(b"1" * 1000),
        send_forever(b"x: y\r\n" * 1000, OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n"),
        send_forever(b"y" * 1000, OK + b"Transfer-Encoding: chunked\r\n\r\n5;"),
    ],
    ids=["headers", "header", "status line", "trailers", "chunk extension"],
)
def test_endless_headers_end(answer: Callable[[Any], None]) -> None:
    assert_fails(answer, SourceUnavailable)


# --- times


@pytest.mark.parametrize(
    ("answer", "reads_head"),
    [
        (stay_silent, False),
        (stay_silent, True),
        (send_forever(b"H", pause_seconds=0.01), True),
        (send_forever(b"A: b\r\n", OK, pause_seconds=0.01), True),
        (send_forever(b"x", OK + b"\r\n", pause_seconds=0.01), True),
        (send_forever(b"1\r\nx\r\n", OK + b"Transfer-Encoding: chunked\r\n\r\n", 0.01), True),
        (send_forever(b"HTTP/1.1 102 Processing\r\n\r\n", pause_seconds=0.01), True),
    ],
    ids=["reads nothing", "says nothing", "status", "headers", "body", "chunks", "102"],
)
def test_slow_source_is_given_up(
    hurried: None, answer: Callable[[Any], None], reads_head: bool
) -> None:
    # A status line of many H is malformed, if that is noticed first.
    assert_fails(answer, (SourceTimeout, SourceUnavailable), reads_head)


def test_all_redirects_have_one_time_limit(hurried: None) -> None:
    pause = threading.Event()

    def answer(peer: Any) -> None:
        pause.wait(0.15)
        peer.sendall(b"HTTP/1.1 302 X\r\nLocation: /\r\n\r\n")

    assert_fails(answer, SourceTimeout)


@pytest.mark.parametrize("piece", [b"", b"\x16"])
def test_silent_tls_handshake_is_given_up(hurried: None, piece: bytes) -> None:
    answer = send_forever(piece, pause_seconds=0.01) if piece else stay_silent
    with run_raw_server(answer, reads_head=False) as raw:
        with pytest.raises((SourceTimeout, SourceUnavailable)):
            make_fetcher().fetch(raw.url(scheme="https"))
        wait_until(lambda: raw.ended == 1)


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
    with run_raw_server(partial(send, OK + b"\r\n" + BODY), serve_tls(certificate)) as raw:
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


# --- validators


def test_source_confirms_what_it_sent(sources: SourceServer) -> None:
    date = "Sun, 09 Sep 2001 01:46:40 GMT"
    sources.pages["/a"] = Page(BODY, headers={"ETag": '"1"', "Last-Modified": date})
    first = fetch(sources.url("/a"))
    first.file.close()
    again = make_fetcher().fetch(sources.url("/a"), first.validators)
    assert isinstance(again, Unchanged)
    assert again.validators == first.validators
    headers = sources.asked("/a")[1]
    assert (headers["If-None-Match"], headers["If-Modified-Since"]) == ('"1"', date)


def test_confirmation_of_what_nobody_asked_is_an_error() -> None:
    with run_raw_server(lambda peer: peer.sendall(b"HTTP/1.1 304 X\r\n\r\n")) as raw:
        for known in (None, Validators(), Validators("0" * 64, '"1"', "")):
            with pytest.raises(SourceUnavailable):
                make_fetcher().fetch(raw.url(), known)
        assert b"If-" not in b"".join(raw.heads)


def test_validators_mean_nothing_to_another_address(sources: SourceServer) -> None:
    """Where a redirect leads today, the same tag may be another image's."""
    for name in ("x", "y"):
        sources.pages[f"/{name}"] = Page(name.encode(), headers={"ETag": '"1"'})
    sources.pages["/a"] = Page(b"", 302, {"Location": "/x"})
    first = fetch(sources.url("/a"))
    assert content(first) == b"x"
    again = make_fetcher().fetch(sources.url("/a"), first.validators)
    assert isinstance(again, Unchanged)
    assert again.answers[0]["location"] == "/x"
    sources.pages["/a"] = Page(b"", 302, {"Location": "/y"})
    assert content(fetch(sources.url("/a"), first.validators)) == b"y"
    assert all("If-None-Match" not in headers for headers in sources.asked("/a"))


@pytest.mark.parametrize(
    ("etag", "kept"),
    [
        (b'"abc"', '"abc"'),
        (b'W/"abc"', 'W/"abc"'),
        (b'""', '""'),
        (b"abc", ""),
        (b'"a"b"', ""),
        (b'w/"abc"', ""),
        (b'"a b"', ""),
        (b'"a", "b"', ""),
        (b'"\x01"', ""),
        (b'"\x7f"', ""),
        ('"ü"'.encode(), ""),
        (b'"\xff"', ""),
        (b'"' + b"x" * 256 + b'"', '"' + "x" * 256 + '"'),
        (b'"' + b"x" * 257 + b'"', ""),
        (b'"' + b"x" * 90_000 + b'"', ""),
    ],
)
def test_only_a_short_and_valid_tag_is_kept_and_sent_back(etag: bytes, kept: str) -> None:
    answer = OK + b"ETag: " + etag + b"\r\n\r\n" + BODY
    with run_raw_server(lambda peer: peer.sendall(answer)) as raw:
        found = fetch(raw.url())
        assert found.validators.etag == kept
        found.file.close()
        fetch(raw.url(), found.validators).file.close()
        sent = f"\r\nIf-None-Match: {kept}\r\n".encode() in raw.heads[1]
        assert sent == bool(kept)
        assert (b"if-none-match" in raw.heads[1].lower()) == bool(kept)


@pytest.mark.parametrize(
    "date",
    [b"", b"0", b"now", b"\xfc" * 10, b"Sun, 09 Sep 2001 01:46:40 GMT" + b" " * 9 + b"x" * 90],
)
def test_malformed_date_is_not_kept(date: bytes) -> None:
    answer = OK + b"Last-Modified: " + date + b"\r\n\r\n" + BODY
    with run_raw_server(lambda peer: peer.sendall(answer)) as raw:
        found = fetch(raw.url())
        found.file.close()
        assert found.validators.last_modified == ""


def test_head_that_arrives_is_one_request(sources: SourceServer) -> None:
    """No part of an address can become a header of its own."""
    with run_raw_server(lambda peer: peer.sendall(OK + b"\r\n" + BODY)) as raw:
        url = f"http://127.0.0.1:{raw.port}/a%0d%0aX:%20y?b=%0a c\u2028é'\"<>#\u010d\u010a"
        fetch(url).file.close()
    line, *headers = raw.heads[0].decode("ascii").split("\r\n")
    assert line == "GET /a%0d%0aX:%20y?b=%0a%20c%E2%80%A8%C3%A9'%22%3C%3E HTTP/1.1"
    assert [each.partition(":")[0] for each in headers if each] == [
        "Host",
        "User-Agent",
        "Accept",
        "Accept-Encoding",
        "CDN-Loop",
    ]
