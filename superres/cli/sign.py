"""`superres sign`: makes the address of an image by GET."""

import os
from typing import Any

import click

from superres.cli.enhance import FORMAT_NAMES, QUALITIES
from superres.errors import BadRequest, SourceRefused
from superres.images.formats import find_format
from superres.images.options import CLEANING_SCALE, MAX_QUALITY, MODES, SCALES
from superres.setting_parsers import parse_keys, parse_public_url
from superres.sources.signed_address import AUTO, ImageRequest, sign_address
from superres.sources.source_url import parse_source

KEY_VARIABLE, BASE_VARIABLE = "SR_URL_KEY", "SR_PUBLIC_URL"
EPILOG = f"""
\b
environment:
  {KEY_VARIABLE}     the service's key, or two separated by a comma: the first signs
  {BASE_VARIABLE}  URL of the service; without it, a path is printed

\b
exit codes:
  0  signed
  2  wrong arguments, or no key
"""


@click.command(epilog=EPILOG)
@click.argument("url")
@click.option(
    "--format",
    "ending",
    type=click.Choice([*FORMAT_NAMES, AUTO], case_sensitive=False),
    default=AUTO,
    show_default=True,
    help="Format of the result; auto: the smallest that the browser shows.",
)
@click.option("--scale", type=click.Choice([str(each) for each in (CLEANING_SCALE, *SCALES)]))
@click.option("--width", type=click.IntRange(min=1), help="In pixels, instead of --scale.")
@click.option("--height", type=click.IntRange(min=1), help="In pixels; see --width.")
@click.option("--mode", type=click.Choice(MODES))
@click.option("--quality", type=click.IntRange(1, MAX_QUALITY), help=f"Default: {QUALITIES}.")
@click.option("--lossless", is_flag=True)
@click.option("--expires", type=click.IntRange(min=1), help="Unix time at which it ends.")
@click.option(
    "--fallback",
    type=click.Choice(["source"]),
    help="source: while there is no result, browsers are sent to the image itself.",
)
def sign(url: str, ending: str, expires: int | None, fallback: str | None, **chosen: Any) -> None:
    """Print the address at which the service has the image at URL, enhanced.

    For <img>, CDNs and whatever else fetches images: docs/images.md.
    """
    found = find_format(ending.lower())
    texts = {name: str(value).lower() for name, value in chosen.items() if value}
    request = ImageRequest(
        url, AUTO if found is None else found.name, texts, expires, fallback is not None
    )
    try:
        keys = parse_keys(os.environ.get(KEY_VARIABLE, ""))
        base = os.environ.get(BASE_VARIABLE, "")
        base = parse_public_url(base) if base else ""
        parse_source(url)
        path = sign_address(keys[0], request)
    except (BadRequest, SourceRefused) as error:
        raise click.UsageError(error.message) from None
    except ValueError as error:
        raise click.UsageError(f"{KEY_VARIABLE} or {BASE_VARIABLE}: {error}") from None
    click.echo(base + path)
