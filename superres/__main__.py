"""`python -m superres`: the command where no script of it is installed."""

from superres.cli.command import superres

superres(prog_name="superres")
