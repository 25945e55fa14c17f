"""The command `superres`: its subcommands, each imported only when used.

Otherwise the service would keep the progress bars' library in memory for nothing.
"""

import os
from importlib import import_module
from typing import Any

import click

from superres import __version__
from superres.cli import INTERRUPTED

# Each subcommand is a function of the same name in its module.
MODULES = {
    "serve": "superres.cli.serve",
    "enhance": "superres.cli.enhance",
    "clean": "cleanup_cache",
    "key": "superres.cli.key",
    "sign": "superres.cli.sign",
}


class Subcommands(click.Group):
    """Imports a subcommand on demand."""

    def list_commands(self, _context: click.Context) -> list[str]:
        """Return the names, in the order in which users need them."""
        return list(MODULES)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        """Return a subcommand, or None if there is none of that name."""
        if name not in MODULES:
            return None
        command: click.Command = getattr(import_module(MODULES[name]), name)
        return command

    def invoke(self, context: click.Context) -> Any:
        """Run the subcommand; one that is interrupted exits as shells expect."""
        try:
            return super().invoke(context)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            # Threads in the middle of OpenCV would abort an interpreter that exits as usual.
            os._exit(INTERRUPTED)


@click.command(cls=Subcommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def superres() -> None:
    """Upscale images with EDSR x3: as a service, or from the command line."""
