"""`superres serve`: the service, with gunicorn."""

import textwrap
from dataclasses import MISSING, fields

import click

from superres.server.start import start_server
from superres.settings import Settings

HELP_WIDTH = 72


def describe_settings() -> str:
    """Return a line for each setting: its variable, default and meaning."""
    lines = []
    for item in fields(Settings):
        assert item.default is not MISSING
        value = str(item.default).lower() if isinstance(item.default, bool) else item.default
        default = "" if value in ((), None, "") else f" [{value}]"
        meaning = textwrap.fill(item.metadata["help"], HELP_WIDTH)
        lines.append(f"SR_{item.name.upper()}{default}\n{textwrap.indent(meaning, '  ')}")
    return "\n".join(lines)


EPILOG = f"""
\b
environment, with [defaults]:
{describe_settings()}

\b
exit codes:
  0  stopped by SIGTERM or Ctrl-C
  1  a setting is invalid, or the address cannot be listened on
  2  wrong arguments
  3  what a setting names cannot be used: a model, a file of keys, an extra that is not installed
"""


@click.command(epilog=EPILOG)
def serve() -> None:
    """Serve the API and its page, at http://localhost:7860 unless SR_BIND is set.

    All settings are environment variables.
    """
    start_server()
