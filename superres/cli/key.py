"""`superres key`: makes an API key."""

import re

import click

from superres.web.api_keys import NAME_PATTERN, hash_key, make_key


def check_name(_context: click.Context, _parameter: click.Parameter, name: str) -> str:
    """Refuse a name that cannot appear in the key file."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise click.BadParameter("must be 1 to 64 letters, digits, '.', '_' and '-'")
    return name


EPILOG = """
\b
exit codes:
  0  made
  2  NAME cannot be used
"""


@click.command(epilog=EPILOG)
@click.argument("name", callback=check_name)
def key(name: str) -> None:
    """Make an API key for NAME.

    Prints a line for the file named by SR_API_KEYS_FILE, as in `superres key NAME >> FILE`, and the
    key itself to the terminal. Removing the line revokes the key; a running service rereads the
    file when it changes.
    """
    new_key = make_key()
    click.echo(f"{name}:{hash_key(new_key)}")
    click.echo(f"The key, shown only once: {new_key}", err=True)
