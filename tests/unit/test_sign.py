"""`superres sign`: what it prints, and what it refuses."""

import click
import pytest
from click.testing import CliRunner, Result

from superres.cli.sign import sign
from superres.errors import AddressExpired
from superres.sources.signed_address import PREFIX, ImageRequest, read_address

KEY, OLD_KEY = "k" * 32, "o" * 32
SOURCE = "https://shop.example/boots.jpg"


def run(*arguments: str, **environment: str) -> Result:
    variables = {"SR_URL_KEY": KEY, "SR_PUBLIC_URL": ""} | environment
    return CliRunner().invoke(sign, [SOURCE, *arguments], env=variables)


def read(path: str, key: str = KEY) -> ImageRequest:
    signature, options, file = path.removeprefix(PREFIX).split("/")
    return read_address([key], signature, options, file)


def printed(*arguments: str, **environment: str) -> str:
    done = run(*arguments, **environment)
    assert done.exit_code == 0, done.output
    return done.output.removesuffix("\n")


def test_printed_address_asks_for_what_was_chosen() -> None:
    assert read(printed()) == ImageRequest(SOURCE, "auto", {"scale": "3"})
    chosen = ("--format", "JPG", "--width", "800", "--height", "600", "--quality", "70")
    assert read(printed(*chosen, "--mode", "restore", "--fallback", "source")) == ImageRequest(
        SOURCE,
        "jpeg",
        {"width": "800", "height": "600", "quality": "70", "mode": "restore"},
        falls_back=True,
    )
    lossless = read(printed("--format", "webp", "--lossless", "--expires", "9999999999"))
    assert lossless.texts == {"lossless": "true"}
    assert lossless.expires == 9999999999
    with pytest.raises(AddressExpired):
        read(printed("--expires", "1"))


def test_address_begins_with_the_service_that_is_named() -> None:
    path = printed()
    assert path.startswith(PREFIX)
    assert printed(SR_PUBLIC_URL="https://sr.example/images/") == f"https://sr.example/images{path}"


def test_first_of_two_keys_signs() -> None:
    path = printed(SR_URL_KEY=f" {KEY}, {OLD_KEY}")
    assert path == printed()
    assert path != printed(SR_URL_KEY=OLD_KEY)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scale", "2", "--width", "800"], "scale cannot be combined with width or height."),
        (["--scale", "1"], "it cleans an image"),
        (["--lossless"], "lossless cannot be combined with auto"),
        (["--format", "png", "--quality", "80"], "quality cannot be combined"),
        (["--format", "gif"], "'avif', 'auto'"),
        (["--fallback", "me"], "'source'"),
        (["--expires", "tomorrow"], "--expires"),
        (["--expires", "17000000000000"], "is not in the range"),
    ],
)
def test_wrong_options_are_told_and_end_with_2(arguments: list[str], words: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert words in done.output


@pytest.mark.parametrize(
    "url", ["shop.example/boots.jpg", "ftp://shop.example/a", "https://me@shop.example/a", "https:"]
)
def test_url_that_is_never_fetched_is_not_signed(url: str) -> None:
    done = CliRunner().invoke(sign, [url], env={"SR_URL_KEY": KEY})
    assert done.exit_code == 2
    assert "The source's address" in done.output


def test_wrong_variable_is_named_and_never_shown() -> None:
    for key, words in (
        ("", "SR_URL_KEY is not set"),
        ("short", "at least 32"),
        (",".join("abc"), "two separated by a comma"),
    ):
        done = run(SR_URL_KEY=key)
        assert done.exit_code == 2
        assert words in done.output
        assert not key or key not in done.output
    done = run(SR_PUBLIC_URL="sr.example")
    assert done.exit_code == 2
    assert "SR_PUBLIC_URL: " in done.output
    assert KEY not in done.output


def test_help_explains_every_option() -> None:
    context = click.Context(sign, info_name="sign")
    options = [each for each in sign.params if isinstance(each, click.Option)]
    assert {each.name for each in options if not each.help} == set()
    text = " ".join(sign.get_help(context).split())
    for words in ("SR_URL_KEY", "SR_PUBLIC_URL", "exit codes: 0 ", "[png|webp|jpeg|jpg|avif|auto]"):
        assert words in text
