"""`python -m superres`: the command line where its script is not installed."""

from superres.cli.command import superres

superres(prog_name="superres")
