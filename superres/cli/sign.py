"""`superres sign`: makes the address at which a service has an image of another server."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from superres.cli.result_options import FORMAT_NAMES, read_chosen, result_options
from superres.errors import BadRequest, SourceRefused
from superres.images.formats import find_format
from superres.setting_parsers import parse_keys, parse_public_url
from superres.sources.signed_address import (
    AUTO,
    MAX_TIME_DIGITS,
    TO_SOURCE,
    ImageRequest,
    sign_address,
)
from superres.sources.source_url import parse_source

Value = TypeVar("Value")

KEY_VARIABLE, BASE_VARIABLE = "SR_URL_KEY", "SR_PUBLIC_URL"
EPILOG = f"""
Three widths for a srcset:

\b
  for width in 480 960 1920; do
    superres sign https://shop.example/boots.jpg --width $width
  done

\b
environment:
  {KEY_VARIABLE}     the service's key, or two separated by a comma: the first signs
  {BASE_VARIABLE}  URL of the service; without it, a path is printed

\b
exit codes:
  0  signed
  2  wrong arguments, or no key
"""


def read_variable(name: str, parse: Callable[[str], Value]) -> Value | None:
    """Return what a variable holds; an error does not show it, since it may be a secret."""
    text = os.environ.get(name, "").strip()
    try:
        return parse(text) if text else None
    except ValueError as error:
        raise click.UsageError(f"{name}: {error}") from None


@click.command(epilog=EPILOG)
@click.argument("url")
@click.option(
    "--format",
    "format_name",
    type=click.Choice([*FORMAT_NAMES, AUTO], case_sensitive=False),
    default=AUTO,
    show_default=True,
    help=f"Format of the result; {AUTO}: AVIF or WebP if the browser shows them, else JPEG, or PNG "
    "for an image with transparency.",
)
@result_options
@click.option(
    "--expires",
    # Not milliseconds, as JavaScript has them.
    type=click.IntRange(1, 10**MAX_TIME_DIGITS - 1),
    metavar="UNIX_TIME",
    help="When the address ends, such as $(date -d tomorrow +%s); never by default.",
)
@click.option(
    "--fallback",
    type=click.Choice([TO_SOURCE]),
    help=f"{TO_SOURCE}: browsers are sent to the image at URL while there is no result.",
)
def sign(
    url: str, format_name: str, expires: int | None, fallback: str | None, **chosen: Any
) -> None:
    """Print the address at which the service has the image at URL, upscaled.

    For <img>, CDNs and whatever else fetches images (docs/images.md). URL is that of the image as
    the service reaches it, and can be on any server; nothing is fetched now.
    """
    keys = read_variable(KEY_VARIABLE, parse_keys)
    if keys is None:
        raise click.UsageError(f"{KEY_VARIABLE} is not set; it is the service's key")
    base = read_variable(BASE_VARIABLE, parse_public_url) or ""
    found = find_format(format_name.lower())
    request = ImageRequest(
        url,
        AUTO if found is None else found.name,
        read_chosen(chosen),
        expires,
        fallback is not None,
    )
    try:
        parse_source(url)
        click.echo(base + sign_address(keys[0], request))
    except (BadRequest, SourceRefused) as error:
        raise click.UsageError(error.message) from None
