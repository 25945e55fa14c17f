"""Addresses of sources: what they are, and what is refused."""

import pytest

from superres.errors import SourceRefused
from superres.sources.source_url import MAX_LENGTH, parse_source


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("http://a.example", "http://a.example/"),
        ("HTTPS://A.Example:443/B?c=D#e", "https://a.example/B?c=D"),
        ("http://a.example:8080/?", "http://a.example:8080/"),
        ("http://a.example:/x", "http://a.example/x"),
        ("https://a.example/a b/ü%20%zz'\"<>", "https://a.example/a%20b/%C3%BC%20%zz'%22%3C%3E"),
        ("https://a.example/?q=ü [x]|", "https://a.example/?q=%C3%BC%20%5Bx%5D%7C"),
        ("https://bücher.example/", "https://xn--bcher-kva.example/"),
        ("https://a.example./", "https://a.example./"),
        ("http://[2001:DB8:0:0::1]:81/", "http://[2001:db8::1]:81/"),
        ("http://[::FFFF:127.0.0.1]/", "http://[::ffff:7f00:1]/"),
        ("http://127。0。0。1/", "http://127.0.0.1/"),
        ("http://①②⑦.⓪.0.1/", "http://127.0.0.1/"),
        ("http://\uff2c\uff2f\uff23\uff21\uff2chost/", "http://localhost/"),
        ("http://0x7F.1/", "http://0x7f.1/"),
    ],
)
def test_address_has_one_normal_form(text: str, normal: str) -> None:
    url = parse_source(text)
    assert str(url) == normal
    assert parse_source(normal) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.png",
        "//a.example/a.png",
        "file:///etc/passwd",
        "file://a.example/etc/passwd",
        "ftp://a.example/a.png",
        "gopher://a.example:6379/_FLUSHALL",
        "data:image/png;base64,AAAA",
        "javascript:alert(1)",
        "http:a.example",
        "http:/a.example",
        "http://",
        "http:///a.png",
        "http://:80/",
        "http://a.example:0/",
        "http://a.example:65536/",
        "http://a.example:-1/",
        "http://a.example:8\uff10/",
        "http://a.example:80:81/",
        "http://me@a.example/",
        "http://me:secret@a.example/",
        "http://@a.example/",
        "http://a.example\\@127.0.0.1/",
        "http://127.0.0.1\\.a.example/",
        "http://a.example%2f@127.0.0.1/",
        "http://a%00.example/",
        "http://a b.example/",
        "http://a\uff05b.example/",
        "http://a℀b.example/",
        "http://a..b。/",
        "http://[::1",
        "http://::1/",
        "http://[::1]a/",
        "http://a[::1]/",
        "http://[v1.x]/",
        "http://[fe80::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://[127.0.0.1]/",
        "http://a.example/\r\nHost: b.example",
        "http://a.exam\nple/",
        "ht\ttp://a.example/",
        "http://a.example/\0",
        "http://a.example/\x7f",
        "http://a.example/" + "a" * MAX_LENGTH,
        "http://a.example/" + "ü" * (MAX_LENGTH // 6),
    ],
)
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(SourceRefused):
        parse_source(text)


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/c", "https://a.example:444/c"),
        ("c?d", "https://a.example:444/a/c?d"),
        ("?d", "https://a.example:444/a/b?d"),
        ("../../c", "https://a.example:444/c"),
        ("//b.example/c", "https://b.example/c"),
        ("http://b.example", "http://b.example/"),
        ("  HTTP://B.example/  ", "http://b.example/"),
        ("/ü".encode().decode("latin-1"), "https://a.example:444/%C3%BC"),
        ("/ü", "https://a.example:444/%FC"),
        ("/a b", "https://a.example:444/a%20b"),
    ],
)
def test_redirect_is_relative_to_where_it_came_from(location: str, expected: str) -> None:
    assert str(parse_source("https://a.example:444/a/b").follow(location)) == expected


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "ftp://a.example/",
        "gopher://a.example/",
        "javascript:alert(1)",
        "http://me:secret@a.example/",
        "http://[",
        "http://[::1",
        "http://a.example:99999/",
        "/" + "a" * MAX_LENGTH,
    ],
)
def test_redirect_to_another_kind_of_address_is_refused(location: str) -> None:
    with pytest.raises(SourceRefused):
        parse_source("https://a.example/a/b").follow(location)
