"""`superres enhance` with images at web addresses, from little servers."""

import gzip
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from superres.cli import downloads
from superres.cli.downloads import Download
from superres.cli.service_answers import EnhanceError
from testkit.command_line import command, draw, names_in, run
from testkit.service import Service, find_free_port, run_light_service
from testkit.source_server import Page, SourceServer, run_source_server
from testkit.waiting import WAIT_SECONDS


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with run_light_service(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture
def sources(tmp_path: Path) -> Iterator[SourceServer]:
    content = draw(tmp_path / "drawn.png", 1).read_bytes()
    with run_source_server() as server:
        server.pages["/photo.png"] = Page(content)
        yield server


def test_addresses_are_fetched_here_and_mixed_with_paths(
    service: Service, sources: SourceServer, tmp_path: Path
) -> None:
    sources.pages |= {
        "/deep/a%20b%2Fc.png?size=1": sources.pages["/photo.png"],
        "/": sources.pages["/photo.png"],
        "/moved": Page(status=302, headers={"Location": "/photo.png"}),
        "/packed.webp": Page(
            gzip.compress(draw(tmp_path / "x.webp", 2).read_bytes()),
            headers={"Content-Encoding": "gzip"},
        ),
    }
    paths = ["/deep/a%20b%2Fc.png?size=1", "/", "/moved", "/packed.webp", "/photo.png"]
    given = [*map(sources.url, paths), sources.url("/photo.png"), draw(tmp_path / "own.png", 3)]
    out = tmp_path / "out"
    done = run(*given, "-o", out, "--url", service.url)
    assert done.returncode == 0, done.stderr
    assert "6 of 6 images upscaled" in done.stderr
    names = {"a b_c_x3.png", "127.0.0.1_x3.png", "moved_x3.png", "packed.webp_x3.png"}
    assert names_in(out) == names | {"photo_x3.png", "own_x3.png"}
    with Image.open(out / "moved_x3.png") as result:
        assert result.size == (144, 144)
    headers = sources.asked("/photo.png")[0]
    assert headers["User-Agent"].startswith("superres/")
    before = len(sources.requests)
    again = run(*given, "-o", out, "--url", service.url)
    assert "0 of 0 images upscaled" in again.stderr
    assert len(sources.requests) == before


def test_one_address_goes_to_standard_output_without_a_service(sources: SourceServer) -> None:
    done = subprocess.run(
        command(sources.url("/photo.png"), "-o", "-", "--local", "--format", "webp"),
        capture_output=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout[8:12] == b"WEBP"


def test_address_that_gives_no_image_fails_alone_and_says_why(
    service: Service, sources: SourceServer, tmp_path: Path
) -> None:
    sources.pages |= {
        "/page.html": Page(b"<!doctype html><html></html>"),
        "/empty.png": Page(),
        "/secret.png": Page(b"no", 403),
        "/loop.png": Page(status=302, headers={"Location": "/loop.png"}),
        "/elsewhere.png": Page(status=302, headers={"Location": "ftp://a.example/x.png"}),
        "/damaged.png": Page(b"no gzip", headers={"Content-Encoding": "gzip"}),
    }
    nowhere = f"http://127.0.0.1:{find_free_port()}/a.png"
    failures = {
        sources.url("/missing.png"): "there is nothing at this address (404)",
        sources.url("/secret.png"): "the server answered 403, Forbidden",
        sources.url("/page.html"): "it is a web page (HTML)",
        sources.url("/empty.png"): "the server sent an empty file",
        sources.url("/loop.png"): "redirects in a loop",
        sources.url("/elsewhere.png"): "something that is not a web address",
        sources.url("/damaged.png"): "the server's answer is damaged",
        nowhere: "Nothing is listening at http://127.0.0.1",
        "http://sr.invalid/b.png": "The host name of http://sr.invalid cannot be resolved",
    }
    out = tmp_path / "out"
    addresses = [*failures, sources.url("/photo.png")]
    done = run(*addresses, "-o", out, "--url", service.url, NO_PROXY="*")
    assert done.returncode == 1
    assert "1 of 10 images upscaled" in done.stderr
    for address, words in failures.items():
        (line,) = [each for each in done.stderr.splitlines() if each.startswith(f"{address}: ")]
        assert words in line
    assert names_in(out) == {"photo_x3.png"}


def test_malformed_or_equal_names_are_wrong_arguments(sources: SourceServer) -> None:
    for addresses, words in (
        (["http://"], "'http://' is not a web address"),
        (["https://a.example:99999/a.png"], "is not a web address"),
        (["https:a.png"], "is not a web address"),
        ([sources.url("/a/x.png"), sources.url("/b/x.png")], "would have the same result"),
        ([sources.url("/photo.png"), sources.url("/b/x.png"), "-o", "-"], "takes one image"),
    ):
        done = run(*addresses)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr
    assert not sources.requests


def test_endless_answer_is_cut_off(sources: SourceServer, monkeypatch: pytest.MonkeyPatch) -> None:
    sources.pages["/large.png"] = Page(bytes(100_001))
    monkeypatch.setattr(downloads, "MAX_BYTES", 100_000)
    with pytest.raises(EnhanceError, match=r"has more than 100,000 bytes"):
        Download(sources.url("/large.png")).read_bytes()


def test_proxy_of_the_environment_is_used(
    service: Service, sources: SourceServer, tmp_path: Path
) -> None:
    proxy = sources.url("")
    # What a proxy is asked for is the whole address.
    sources.pages["http://a.example/photo.png"] = sources.pages["/photo.png"]
    done = run(
        "http://a.example/photo.png",
        *("-o", tmp_path / "out", "--url", service.url),
        HTTP_PROXY=proxy,
        NO_PROXY="127.0.0.1",
    )
    assert done.returncode == 0, done.stderr
    assert names_in(tmp_path / "out") == {"photo_x3.png"}


def test_service_is_not_told_the_address(
    service: Service, sources: SourceServer, tmp_path: Path
) -> None:
    sources.pages["/?token=1"] = Page(draw(tmp_path / "other.png", 9).read_bytes())
    address = f"http://localhost:{httpx.URL(sources.url('')).port}/?token=1"
    done = run(address, "-o", tmp_path / "out", "--url", service.url)
    assert done.returncode == 0, done.stderr
    assert names_in(tmp_path / "out") == {"localhost_x3.png"}
    assert "token" not in service.log
