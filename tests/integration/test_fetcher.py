"""The fetcher and its sources: good answers, and whatever else a server may send."""

import errno
import gzip
import hashlib
import tempfile
import threading
import tracemalloc
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from superres.errors import (
    Busy,
    ServiceError,
    SourceNotFound,
    SourceTimeout,
    SourceTooLarge,
    SourceUnavailable,
)
from superres.sources import fetcher
from superres.sources.fetcher import Fetched, Unchanged, Validators
from testkit.fetching import BODY, LOOP_ID, MAX_BYTES, OK, content, fetch, make_fetcher
from testkit.hostile import packed_zeros
from testkit.source_server import (
    Page,
    RawServer,
    SourceServer,
    run_raw_server,
    send_forever,
    stay_silent,
)
from testkit.waiting import wait_until


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
    respond = partial(send, answer) if isinstance(answer, bytes) else answer
    with run_raw_server(respond, reads_head=reads_head) as raw:
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
